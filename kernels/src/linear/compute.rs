//! The arithmetic of products.

use core::{fmt, str::FromStr};

use super::bytes;
use crate::format::Format;

/// The arithmetic that a weight is multiplied in on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "lowercase")
)]
pub enum Compute {
    /// Weights dequantized exactly, times inputs as they are, added in `f32`.
    #[default]
    F32,
    /// Weights and inputs rounded to bf16, products added in `f32`: where there are more than a few inputs.
    Bf16,
    /// Codes as whole numbers, times inputs rounded to bytes in blocks of up to 128.
    Int8,
}

impl Compute {
    /// All of them, in the order in which they are listed to people.
    pub const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::Int8];

    /// `"f32"`, `"bf16"`, `"int8"`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }

    /// The arithmetic that a weight of `format` and `shape` `[o, i]` gets where this one is asked for: `int8` is for codes that are whole
    /// numbers or levels, in groups along rows, and every other weight stays in `f32`. It does not depend on the
    /// processor.
    pub fn of(self, format: Format, shape: [usize; 2]) -> Self {
        match self {
            Self::Int8 if !bytes::fits(format, shape) => Self::F32,
            other => other,
        }
    }
}

impl fmt::Display for Compute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Compute {
    type Err = UnknownCompute;

    fn from_str(word: &str) -> Result<Self, UnknownCompute> {
        let named = Self::ALL.into_iter().find(|compute| compute.name() == word);
        named.ok_or_else(|| UnknownCompute(word.to_owned()))
    }
}

/// A word that names no arithmetic.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is none of f32, bf16, int8")]
pub struct UnknownCompute(pub String);
