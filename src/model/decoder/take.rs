//! A walk that takes finished weights.

use burn::{module::Param, tensor::Tensor};

use super::visit::Visit;
use crate::model::{
    layers::{Embedding, Linear, Norm, NormSpec},
    slot::Role,
    weights::{BuildError, Weights},
};

/// Takes weights.
pub(super) struct Taker<'w>(pub(super) &'w mut Weights);

impl Visit for Taker<'_> {
    type Table = Embedding;
    type Matrix = Linear;
    type Norm = Norm;
    type Values = Param<Tensor<1>>;
    type Error = BuildError;

    fn table(&mut self, path: String, _: [usize; 2]) -> Result<Embedding, BuildError> {
        self.0.embedding(&path)
    }

    fn matrix(
        &mut self,
        path: String,
        role: Role,
        _: [usize; 2],
        bias: bool,
    ) -> Result<Linear, BuildError> {
        let weight = self.0.matrix(&format!("{path}.weight"))?;
        let bias = bias.then(|| self.0.param(&format!("{path}.bias")));
        Ok(Linear::new(weight, bias.transpose()?).named(&path, role))
    }

    fn norm(&mut self, path: String, shape: &[usize], spec: NormSpec) -> Result<Norm, BuildError> {
        let mut row = |end: &str| {
            let name = format!("{path}.{end}");
            match shape {
                [_] => self.0.param(&name),
                // A row for each head, one after another.
                _ => self.0.flat_param(&name),
            }
        };
        let scale = row("weight")?;
        let bias = spec.bias.then(|| row("bias")).transpose()?;
        Ok(Norm::new(scale, bias, spec).named(&path, shape))
    }

    fn values(&mut self, name: String, _: &[usize]) -> Result<Param<Tensor<1>>, BuildError> {
        self.0.flat_param(&name)
    }
}
