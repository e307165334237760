//! The types of dense values, as Burn calls them.

use burn::tensor::FloatDType;
pub use firebox_kernels::arith::float::DType;

/// A [`DType`] in Burn's words.
pub trait ToBurn {
    /// The same type.
    fn burn(self) -> FloatDType;
}

impl ToBurn for DType {
    fn burn(self) -> FloatDType {
        match self {
            Self::F32 => FloatDType::F32,
            Self::F16 => FloatDType::F16,
            Self::Bf16 => FloatDType::BF16,
        }
    }
}

/// The types of the dense weights of a load that computes in `dtype`, and why not in the type that was `wanted`. Matrices
/// that stay as they are stored are in `halves`.
pub(crate) fn dense_types(dtype: DType, wanted: DType, halves: &[DType]) -> String {
    let mut types = dtype.to_string();
    if dtype != wanted {
        types.push_str(&format!(" (this device does not compute in {wanted})"));
    }
    for half in halves {
        types.push_str(&format!(", matrices in {half}"));
    }
    types
}
