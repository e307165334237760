//! What becomes of a weight, in words.

use core::fmt;

use firebox_kernels::format::Format;
use serde::{Serialize, Serializer};

use crate::quant::QuantSpec;

/// What becomes of a weight. Prints, and serialises, as the words of `--quant` that ask for it, or as its format where
/// the checkpoint has the weight packed; `fp8:e4m3,scale=block → nf4:block=64` where its packed values are a source.
#[derive(Debug, Clone, PartialEq)]
pub enum Treatment {
    /// It is dense.
    Dense,
    /// A method packs it.
    Packed(QuantSpec),
    /// It stays packed as the checkpoint has it.
    Adopted(Format),
    /// It is packed in the checkpoint, and its values become dense.
    Unpacked(Format),
    /// It is packed in the checkpoint, and a method packs its values.
    Repacked(Format, QuantSpec),
}

impl Treatment {
    /// What a rule has to ask for to get it: nothing for a weight that is dense or adopted.
    pub fn asked(self) -> QuantSpec {
        match self {
            Self::Packed(spec) | Self::Repacked(_, spec) => spec,
            Self::Dense | Self::Adopted(_) | Self::Unpacked(_) => QuantSpec::None,
        }
    }
}

impl fmt::Display for Treatment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dense => QuantSpec::None.fmt(f),
            Self::Packed(spec) => spec.fmt(f),
            Self::Adopted(format) => format.fmt(f),
            Self::Unpacked(format) => write!(f, "{format} → {}", QuantSpec::None),
            Self::Repacked(format, spec) => write!(f, "{format} → {spec}"),
        }
    }
}

impl Serialize for Treatment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
