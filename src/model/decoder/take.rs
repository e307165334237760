//! A walk that takes finished weights.

use burn::{module::Param, tensor::Tensor};

use super::{spec::Spec, visit::Visit};
use crate::model::{
    layers::{Embedding, Linear, Norm, NormSpec, Place},
    slot::Role,
    weights::{BuildError, Weights},
};

/// Takes weights.
pub(super) struct Taker<'w> {
    pub(super) weights: &'w mut Weights,
    /// The model that they are of.
    pub(super) spec: &'w Spec,
}

impl Taker<'_> {
    fn place(&self, path: &str, role: Role) -> Place {
        Place {
            module: self.spec.module(path).into(),
            turned: self.spec.transposed && role == Role::Linear,
            ..Place::new(path, role)
        }
    }
}

impl Visit for Taker<'_> {
    type Table = Embedding;
    type Matrix = Linear;
    type Norm = Norm;
    type Values = Param<Tensor<1>>;
    type Error = BuildError;

    fn table(&mut self, path: String, _: [usize; 2]) -> Result<Embedding, BuildError> {
        let place = self.place(&path, Role::Embedding);
        Ok(self.weights.embedding(&path)?.named(place))
    }

    fn matrix(
        &mut self,
        path: String,
        role: Role,
        _: [usize; 2],
        bias: bool,
    ) -> Result<Linear, BuildError> {
        let weight = self.weights.matrix(&format!("{path}.weight"))?;
        let bias = bias.then(|| self.weights.param(&format!("{path}.bias")));
        Ok(Linear::new(weight, bias.transpose()?).named(self.place(&path, role)))
    }

    fn norm(&mut self, path: String, shape: &[usize], spec: NormSpec) -> Result<Norm, BuildError> {
        let mut row = |end: &str| {
            let name = format!("{path}.{end}");
            match shape {
                [_] => self.weights.param(&name),
                // A row for each head, one after another.
                _ => self.weights.flat_param(&name),
            }
        };
        let scale = row("weight")?;
        let bias = spec.bias.then(|| row("bias")).transpose()?;
        Ok(Norm::new(scale, bias, spec).named(self.place(&path, Role::Norm), shape))
    }

    fn values(&mut self, name: String, _: &[usize]) -> Result<Param<Tensor<1>>, BuildError> {
        self.weights.flat_param(&name)
    }
}
