//! Normalisation of rows.

#[cfg(feature = "cpu")]
use super::host;
use super::{
    adapter::{Adapter, changed_bias},
    frozen::values,
    linear::Place,
};
use crate::{collective::Together, config::Role};
use burn::{
    module::{Module, Param},
    tensor::{DType, Device, Tensor},
};
use serde::Serialize;

/// What a row is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    /// The root of its mean square.
    Rms,
    /// Its standard deviation, after its mean was subtracted.
    Layer,
}

/// How rows are normalised.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct NormSpec {
    /// What a row is divided by.
    pub kind: NormKind,
    /// Is added to the mean square, and keeps an all-zero row finite.
    pub eps: f64,
    /// The checkpoint stores the scale minus one.
    pub plus_one: bool,
    /// A bias is added at the end.
    pub bias: bool,
    /// The row is rounded to the type of the activations before it is scaled, as Llama does, and not after. It makes a
    /// difference in half types only.
    pub rounds_first: bool,
}

impl NormSpec {
    /// Llama's.
    pub const fn rms(eps: f64) -> Self {
        Self {
            kind: NormKind::Rms,
            eps,
            plus_one: false,
            bias: false,
            rounds_first: true,
        }
    }

    /// PyTorch's `LayerNorm`.
    pub const fn layer(eps: f64, bias: bool) -> Self {
        Self {
            kind: NormKind::Layer,
            eps,
            plus_one: false,
            bias,
            rounds_first: false,
        }
    }
}

impl NormSpec {
    /// `x` `[.., features]` normalised in f32, without scale and bias.
    pub fn unit<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        #[cfg(feature = "cpu")]
        if host::takes(&x) {
            return self.on_host(x, None, None);
        }
        self.unit_over(x, None)
    }

    /// `x` `[.., features]` normalised in one walk, with a scale and a bias `[features]`.
    #[cfg(feature = "cpu")]
    fn on_host<const D: usize>(
        self,
        x: Tensor<D>,
        scale: Option<Tensor<1>>,
        bias: Option<Tensor<1>>,
    ) -> Tensor<D> {
        host::norm(x, self.kind == NormKind::Layer, self.eps, scale, bias)
    }

    /// The scale, of the numbers that the checkpoint has for it.
    fn whole_scale<const D: usize>(self, scale: Tensor<D>) -> Tensor<D> {
        match self.plus_one {
            true => scale + 1.0,
            false => scale,
        }
    }

    /// The same, where other ranks have equal parts of the features.
    fn unit_over<const D: usize>(self, x: Tensor<D>, together: Option<&Together>) -> Tensor<D> {
        let mean = |x: Tensor<D>| match together {
            Some(together) => together.mean(x.mean_dim(D - 1)),
            None => x.mean_dim(D - 1),
        };
        let x = x.cast(DType::F32);
        let x = match self.kind {
            NormKind::Rms => x,
            NormKind::Layer => x.clone() - mean(x),
        };
        let mean_square = mean(x.clone() * x.clone());
        x * (mean_square + self.eps).sqrt().recip()
    }
}

/// `y = (x - shift) / sqrt(mean((x - shift)²) + eps) * scale + bias`, over the last dimension; the shift is the mean of
/// the row for [`NormKind::Layer`] and nothing for [`NormKind::Rms`].
///
/// Burn's own `RmsNorm` rounds the root to the type of `x` before it divides. Checkpoints are trained
/// with the whole quotient in `f32`, rounded once: in bf16 the two differ.
#[derive(Module, Debug)]
pub struct Norm {
    /// `[features]`, as the checkpoint stores it.
    pub scale: Param<Tensor<1>>,
    /// `[features]`.
    pub bias: Option<Param<Tensor<1>>>,
    /// Changes of scale and bias, each added for itself. [`Adapter::whole`] is another scale, as rows of a matrix.
    pub adapters: Vec<Adapter>,
    #[module(skip)]
    spec: NormSpec,
    #[module(skip)]
    pub(crate) place: Place,
    /// The shape that the checkpoint has the scale in: `[features]`, or a row for each head.
    #[module(skip)]
    pub(crate) shape: Vec<usize>,
    /// The other ranks, where each has an equal part of the features.
    #[module(skip)]
    pub(crate) part: Option<Together>,
}

impl Norm {
    /// From a scale and, where there is one, a bias `[features]`.
    pub fn new(scale: Param<Tensor<1>>, bias: Option<Param<Tensor<1>>>, spec: NormSpec) -> Self {
        Self {
            shape: scale.val().dims().to_vec(),
            scale,
            bias,
            adapters: Vec::new(),
            spec,
            place: Place::new("", Role::Norm),
            part: None,
        }
    }

    /// The same module under the name that adapters know it by, with its shape in the checkpoint.
    pub(crate) fn named(self, place: Place, shape: &[usize]) -> Self {
        Self {
            place,
            shape: shape.to_vec(),
            ..self
        }
    }

    /// Where it normalises, whether or not gradients are recorded there.
    pub fn device(&self) -> Device {
        self.scale.val().device().without_autodiff()
    }

    /// The scale with the changes of adapters, `[features]`.
    pub(crate) fn changed_scale(&self) -> Tensor<1> {
        let scale = values(&self.scale);
        let changes = self.adapters.iter();
        let changes = changes.filter_map(|adapter| adapter.scale(&scale));
        changes.fold(scale.clone(), |changed, change| {
            changed.cast(change.dtype()) + change
        })
    }

    /// The bias with the changes of adapters, `[features]`.
    pub(crate) fn changed_bias(&self) -> Option<Tensor<1>> {
        changed_bias(self.bias.as_ref(), &self.adapters)
    }

    /// `x` `[.., features]` to the same shape and type.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        #[cfg(feature = "cpu")]
        if host::takes(&x) && self.part.is_none() {
            let scale = self.spec.whole_scale(self.changed_scale().cast(DType::F32));
            let bias = self.changed_bias().map(|bias| bias.cast(DType::F32));
            if host::takes(&scale) && bias.as_ref().is_none_or(host::takes) {
                return self.spec.on_host(x, Some(scale), bias);
            }
        }
        self.apply(x, |weights| weights.unsqueeze())
    }

    /// `x` `[b, n, t, d]` over `d`, with a scale `[n·d]` that has a row for each of the `n` heads.
    pub(super) fn forward_by_head(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, n, _, d] = x.dims();
        self.apply(x, |weights| weights.reshape([1, n, 1, d]))
    }

    /// `shaped` gives scale and bias the dimensions of `x`.
    fn apply<const D: usize>(
        &self,
        x: Tensor<D>,
        shaped: impl Fn(Tensor<1>) -> Tensor<D>,
    ) -> Tensor<D> {
        let dtype = x.dtype();
        let unit = self.spec.unit_over(x, self.part.as_ref());

        let (unit, weights_in) = match self.spec.rounds_first {
            true => (unit.cast(dtype), dtype),
            false => (unit, DType::F32),
        };
        let weights = |values: Tensor<1>| shaped(values.cast(weights_in));
        let scale = self.spec.whole_scale(weights(self.changed_scale()));
        let y = match self.changed_bias() {
            Some(bias) => unit * scale + weights(bias),
            None => unit * scale,
        };
        y.cast(dtype)
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use burn::{module::ParamId, tensor::TensorData};
    use half::bf16;

    use super::*;

    /// In bf16 the answer is that of `f32`, rounded once before it is scaled and once after. Catches a
    /// norm computed in bf16, a root that is rounded before the division (Burn's), and a scale applied
    /// before the rounding.
    #[test]
    fn a_row_is_normalised_in_f32_and_rounded_before_it_is_scaled() {
        let x: Vec<bf16> = (0..64u16)
            .map(|i| bf16::from_f32(f32::from(i * 37 % 64) / 9.0 - 3.0))
            .collect();
        let scale: Vec<bf16> = (0..64u16)
            .map(|i| bf16::from_f32(0.5 + f32::from(i) / 40.0))
            .collect();
        let mean_square = x.iter().map(|x| x.to_f32() * x.to_f32()).sum::<f32>() / 64.0;
        let root = (mean_square + 1e-5).sqrt();
        let expected: Vec<bf16> = x
            .iter()
            .zip(&scale)
            .map(|(x, scale)| bf16::from_f32(x.to_f32() / root) * scale)
            .collect();

        let place = |numbers: Vec<bf16>| -> Tensor<1> {
            let len = numbers.len();
            let data = TensorData::new(numbers, [len]);
            Tensor::from_data(data, (&Device::flex(), DType::BF16))
        };
        let scale = Param::initialized(ParamId::new(), place(scale));
        let y = Norm::new(scale, None, NormSpec::rms(1e-5)).forward(place(x).reshape([1, 1, 64]));

        let y: Vec<bf16> = y.into_data().try_into_vec().expect("bf16, as it went in");
        assert_eq!(y, expected);
    }
}
