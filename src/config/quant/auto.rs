//! A size instead of a method: the quantization of each weight is measured and chosen.

use core::fmt;

use super::super::Bytes;

/// How much the weights may take; each gets the quantization that the measured errors ask for.
///
/// In words, `auto:bits=4.25`, `auto:size=2GiB`, or `auto` alone for the largest size that fits.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Auto {
    /// Bits of a weight on average, scales included, over the weights that are chosen for.
    Bits(f64),
    /// Bytes of all finished weights, embeddings, heads and norms included.
    Size(u64),
    /// As wide as fits where the model goes: into the device's budget or memory, for a host target the host's, less what
    /// else a load and a product take.
    Fitting,
}

impl Auto {
    /// Reads what follows `auto:`.
    pub(crate) fn parse(option: &str) -> Option<Self> {
        match option.split_once('=')? {
            ("bits", bits) => {
                let bits: f64 = bits.trim().parse().ok()?;
                (bits.is_finite() && bits > 0.0).then_some(Self::Bits(bits))
            }
            ("size", size) => {
                let Bytes(bytes) = size.parse().ok()?;
                Some(Self::Size(bytes))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Auto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bits(bits) => write!(f, "auto:bits={bits}"),
            Self::Size(bytes) => write!(f, "auto:size={bytes}"),
            Self::Fitting => f.write_str("auto"),
        }
    }
}
