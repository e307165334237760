//! Root-mean-square normalisation.

use burn::{
    module::{Module, Param},
    tensor::{DType, Tensor},
};

/// `y = x / sqrt(mean(x²) + eps) * scale`, over the last dimension.
///
/// Burn's own `RmsNorm` rounds the root to the type of `x` before it divides. Checkpoints are trained
/// with the whole quotient in `f32`, rounded once, then scaled: in bf16 the two differ.
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// `[features]`.
    pub scale: Param<Tensor<1>>,
    #[module(skip)]
    eps: f64,
}

impl RmsNorm {
    /// From a scale `[features]`; `eps` keeps an all-zero row finite.
    pub fn new(scale: Param<Tensor<1>>, eps: f64) -> Self {
        Self { scale, eps }
    }

    /// `x` `[.., features]` to the same shape and type.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let dtype = x.dtype();
        let x = x.cast(DType::F32);
        let mean_square = (x.clone() * x.clone()).mean_dim(D - 1);
        let unit = x * (mean_square + self.eps).sqrt().recip();
        unit.cast(dtype) * self.scale.val().unsqueeze()
    }
}
