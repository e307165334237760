//! Blocks of the 4-bit formats, and how many words their scales take.

use core::fmt;

use crate::arith::pack::CODES8;
use crate::format::error::FormatError;

/// The smallest block.
pub(crate) const MIN: usize = 32;

/// The largest block.
pub(crate) const MAX: usize = 4096;

/// Nested scales under one upper scale.
pub const NESTED: usize = 256;

/// Words of `g` nested scales.
pub const fn nested_len(g: usize) -> usize {
    g.div_ceil(CODES8) + g.div_ceil(NESTED) + 1
}

/// Blocks of a 4-bit format: they run over the *flattened* weight and may straddle rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Blocks {
    /// Weights under one scale: a power of two, 32 to 4096.
    pub block: usize,
    /// Scales are themselves 8-bit codes, 256 under one second-level scale.
    pub nested: bool,
}

impl Blocks {
    /// Blocks of `block` weights for the format called `format_name` in errors.
    ///
    /// # Errors
    ///
    /// [`FormatError::Block`] unless `block` is a power of two from 32 to 4096.
    pub const fn new(
        format_name: &'static str,
        block: usize,
        nested: bool,
    ) -> Result<Self, FormatError> {
        let (min, max) = (MIN, MAX);
        if block < min || block > max || !block.is_power_of_two() {
            return Err(FormatError::Block {
                format: format_name,
                found: block,
                min,
                max,
            });
        }
        Ok(Self { block, nested })
    }

    /// The same blocks with scales that are not nested.
    pub const fn plain(self) -> Self {
        let nested = false;
        Self { nested, ..self }
    }

    /// Scales of a weight of `n`.
    pub const fn count(self, n: usize) -> usize {
        n.div_ceil(self.block)
    }

    /// Words of the scales of a weight of `n`.
    pub(crate) const fn scales_len(self, n: usize) -> usize {
        let g = self.count(n);
        if self.nested { nested_len(g) } else { g }
    }
}

impl fmt::Display for Blocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "block={}{}",
            self.block,
            if self.nested { ",nested" } else { "" }
        )
    }
}
