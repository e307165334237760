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

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use burn::{
        module::ParamId,
        tensor::{Device, TensorData},
    };
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
        let y = RmsNorm::new(scale, 1e-5).forward(place(x).reshape([1, 1, 64]));

        let y: Vec<bf16> = y.into_data().try_into_vec().expect("bf16, as it went in");
        assert_eq!(y, expected);
    }
}
