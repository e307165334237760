//! The 16-bit floats that weights stay in.

use core::fmt;

use crate::arith::float::DType;

/// A 16-bit float, the value of a weight: there is no scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "lowercase")
)]
pub enum Half {
    /// IEEE half.
    F16,
    /// The upper half of an IEEE single.
    Bf16,
}

impl Half {
    /// The type, if it has 16 bits.
    pub const fn of(dtype: DType) -> Option<Self> {
        match dtype {
            DType::F32 => None,
            DType::F16 => Some(Self::F16),
            DType::Bf16 => Some(Self::Bf16),
        }
    }

    /// The type of the values.
    pub const fn dtype(self) -> DType {
        match self {
            Self::F16 => DType::F16,
            Self::Bf16 => DType::Bf16,
        }
    }

    /// The largest finite value.
    pub(crate) const fn largest(self) -> f32 {
        match self {
            Self::F16 => 65504.0,
            Self::Bf16 => f32::from_bits(0x7f7f_0000),
        }
    }
}

impl fmt::Display for Half {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.dtype().fmt(f)
    }
}
