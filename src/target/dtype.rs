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

/// Why a load computes in `dtype` and not in the type that was `wanted`; empty where it is the same.
pub(crate) fn instead(dtype: DType, wanted: DType) -> String {
    if dtype == wanted {
        String::new()
    } else {
        format!(" (this device does not compute in {wanted})")
    }
}
