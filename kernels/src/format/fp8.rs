//! The two 8-bit floats, and which weights share a scale.

use core::fmt;

use crate::arith::pack::CODES8;
use crate::arith::whole;

/// The two 8-bit floats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum Fp8Kind {
    /// Four exponent bits, three mantissa bits, no infinity, largest 448 ("e4m3fn").
    E4m3,
    /// Five exponent bits, two mantissa bits, largest 57344.
    E5m2,
}

/// Which weights share an FP8 scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
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

impl Fp8Kind {
    /// The largest finite value.
    pub const fn largest(self) -> f32 {
        match self {
            Self::E4m3 => 448.0,
            Self::E5m2 => 57344.0,
        }
    }
}

impl Tile {
    /// Rows and columns of a tile in a weight of `[o, i]`, at least 1 x 1.
    pub fn sides(self, [o, i]: [usize; 2]) -> [usize; 2] {
        let [rows, cols] = match self {
            Self::Tensor => [o, i],
            Self::Row => [1, i],
            Self::Block { rows, cols } => [rows, cols],
        };
        [rows.max(1), cols.max(1)]
    }

    /// Scales of a weight of `[o, i]`, as rows and columns of scales. [`Tile::Tensor`] has one and
    /// [`Tile::Row`] has `o` even where the weight is empty.
    pub fn grid(self, [o, i]: [usize; 2]) -> [usize; 2] {
        match self {
            Self::Tensor => [1, 1],
            Self::Row => [o, 1],
            Self::Block { rows, cols } => [o.div_ceil(rows.max(1)), i.div_ceil(cols.max(1))],
        }
    }

    /// Rows of a weight of `shape` that have to stay together: whole tiles and whole words.
    pub(crate) fn rows_together(self, shape: [usize; 2]) -> usize {
        let together = match self {
            Self::Tensor | Self::Row => 1,
            Self::Block { rows, .. } => rows,
        };
        whole::tile_rows(shape, together, CODES8)
    }
}

impl fmt::Display for Fp8Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::E4m3 => "e4m3",
            Self::E5m2 => "e5m2",
        })
    }
}

impl fmt::Display for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tensor => f.write_str("tensor"),
            Self::Row => f.write_str("channel"),
            Self::Block {
                rows: 128,
                cols: 128,
            } => f.write_str("block"),
            Self::Block { rows, cols } => write!(f, "{rows}x{cols}"),
        }
    }
}
