//! What packed words mean: the closed list of formats, their sizes, and a packed weight on the host.
//!
//! Letters: `o` rows (output features), `i` columns (input features), `n = o * i`.

use crate::error::FormatError;

/// How many words a weight of `[o, i]` takes and what they mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// Sixteen normal-quantile levels times a block's largest magnitude.
    Nf4(Blocks),
    /// Sixteen 4-bit float values times a block's largest magnitude.
    Fp4(Blocks),
    /// One 8-bit float a weight, times the scale of its tile.
    Fp8(Fp8Kind, Tile),
}

/// Blocks of a 4-bit format: they run over the *flattened* weight and may straddle rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Blocks {
    /// Weights under one scale: a power of two, 32 to 4096.
    pub block: usize,
    /// Scales are themselves 8-bit codes, 256 under one second-level scale.
    pub nested: bool,
}

/// The two 8-bit floats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fp8Kind {
    /// Four exponent bits, three mantissa bits, no infinity, largest 448 ("e4m3fn").
    E4m3,
    /// Five exponent bits, two mantissa bits, largest 57344.
    E5m2,
}

/// Which weights share an FP8 scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tile {
    /// The whole weight.
    Tensor,
    /// Each row.
    Row,
    /// Tiles of `rows` x `cols`, counted from the first row and column; those at the far edges may be smaller.
    Block {
        /// Rows of a tile.
        rows: usize,
        /// Columns of a tile.
        cols: usize,
    },
}

/// A packed weight in host memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// What the words mean.
    pub format: Format,
    /// `[o, i]` of the weight, not of the words.
    pub shape: [usize; 2],
    /// Codes: [`Format::words_len`] words.
    pub words: Vec<u32>,
    /// Scales: [`Format::scales_len`] words.
    pub scales: Vec<u32>,
}
impl Format {
    /// Placeholder.
    pub fn packed_bytes(&self, _: [usize; 2]) -> usize {
        0
    }
    /// Placeholder.
    pub fn dequantize_rows(
        &self,
        _: [usize; 2],
        _: &[u32],
        _: &[u32],
        _: core::ops::Range<usize>,
        _: &mut [f32],
    ) {
    }
}
impl Blocks {
    /// Placeholder.
    pub fn new(
        _: &'static str,
        block: usize,
        nested: bool,
    ) -> Result<Self, crate::error::FormatError> {
        Ok(Self { block, nested })
    }
}
impl core::fmt::Display for Format {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{self:?}")
    }
}
