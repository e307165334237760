//! The float types that dense weights and activations may have.

use core::{fmt, str::FromStr};

use burn::tensor::FloatDType;
use firebox_kernels::float::FloatBits;

/// A float type of dense weights and activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// The upper half of an IEEE single.
    Bf16,
}

impl DType {
    /// All of them, in the order they are listed to people.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::Bf16];

    /// `"f32"`, `"f16"`, `"bf16"`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }

    /// Bytes of one value.
    pub const fn size(self) -> usize {
        self.bits().size()
    }

    /// The same type, as the kernels crate calls it.
    pub const fn bits(self) -> FloatBits {
        match self {
            Self::F32 => FloatBits::F32,
            Self::F16 => FloatBits::F16,
            Self::Bf16 => FloatBits::Bf16,
        }
    }

    /// The same type, as Burn calls it.
    pub const fn burn(self) -> FloatDType {
        match self {
            Self::F32 => FloatDType::F32,
            Self::F16 => FloatDType::F16,
            Self::Bf16 => FloatDType::BF16,
        }
    }
}

impl From<FloatBits> for DType {
    fn from(bits: FloatBits) -> Self {
        match bits {
            FloatBits::F32 => Self::F32,
            FloatBits::F16 => Self::F16,
            FloatBits::Bf16 => Self::Bf16,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A dtype name that is none of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown dtype `{0}`; write f32, f16 or bf16")]
pub struct UnknownDType(String);

impl FromStr for DType {
    type Err = UnknownDType;

    fn from_str(name: &str) -> Result<Self, UnknownDType> {
        Self::ALL
            .into_iter()
            .find(|dtype| dtype.name() == name)
            .ok_or_else(|| UnknownDType(name.to_owned()))
    }
}
