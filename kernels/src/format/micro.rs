//! The micro formats: how wide their codes are, and how many share a scale.

use core::fmt;

use super::fp8::Fp8Kind;
use crate::arith::pack::{CODES4, CODES8};
use crate::format::error::FormatError;

/// Small floats with an 8-bit scale for each group of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum Micro {
    /// 4-bit floats in groups of 32, whose scale is a power of two.
    Mxfp4,
    /// 8-bit floats in groups of 32, whose scale is a power of two.
    Mxfp8,
    /// 4-bit floats in groups of 16, whose scale is an 8-bit float.
    Nvfp4 {
        /// Scales are multiplied by an `f32` of the whole weight.
        global: bool,
    },
}

impl Micro {
    /// Bits of a code.
    pub const fn bits(self) -> usize {
        match self {
            Self::Mxfp4 | Self::Nvfp4 { .. } => 4,
            Self::Mxfp8 => 8,
        }
    }

    /// Weights under one scale.
    pub const fn group(self) -> usize {
        match self {
            Self::Mxfp4 | Self::Mxfp8 => 32,
            Self::Nvfp4 { .. } => 16,
        }
    }

    /// The largest value of a code.
    pub const fn largest(self) -> f32 {
        match self {
            Self::Mxfp4 | Self::Nvfp4 { .. } => 6.0,
            Self::Mxfp8 => Fp8Kind::E4m3.largest(),
        }
    }

    /// Whether the last word of the scales is a global one.
    pub const fn is_global(self) -> bool {
        matches!(self, Self::Nvfp4 { global: true })
    }

    /// How often a weight is read: a global scale depends on all of it.
    pub(crate) const fn passes(self) -> usize {
        if self.is_global() { 2 } else { 1 }
    }

    /// Codes of a word.
    pub(crate) const fn codes(self) -> usize {
        match self {
            Self::Mxfp4 | Self::Nvfp4 { .. } => CODES4,
            Self::Mxfp8 => CODES8,
        }
    }

    /// Words of scales of a weight of `[o, i]`.
    pub(crate) const fn scales_len(self, [o, i]: [usize; 2]) -> usize {
        let groups = o.saturating_mul(i.div_ceil(self.group()));
        groups.div_ceil(CODES8) + self.is_global() as usize
    }

    /// Refuses rows that are not whole groups.
    pub(crate) const fn check_columns(self, cols: usize) -> Result<(), FormatError> {
        let group = self.group();
        if cols.is_multiple_of(group) {
            Ok(())
        } else {
            Err(FormatError::Columns { cols, group })
        }
    }
}

/// The words a quantization is asked for with.
impl fmt::Display for Micro {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mxfp4 => "mxfp4",
            Self::Mxfp8 => "mxfp8",
            Self::Nvfp4 { global: false } => "nvfp4",
            Self::Nvfp4 { global: true } => "nvfp4:global",
        })
    }
}
