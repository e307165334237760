//! Errors of formats. The caller knows the name of the tensor and adds it.

use super::fp8::Tile;
use super::gguf::Gguf;

/// A request that a format cannot represent.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// A block size that the format does not have.
    #[error("a {format} block is {found} weights, and must be a power of two from {min} to {max}")]
    Block {
        /// Which format.
        format: &'static str,
        /// Weights asked for.
        found: usize,
        /// Smallest block.
        min: usize,
        /// Largest block.
        max: usize,
    },

    /// A scale tile with a side of zero.
    #[error(
        "an fp8 scale tile of {rows} x {cols} weights holds no weight; both numbers are 1 at least"
    )]
    Tile {
        /// Rows of the tile.
        rows: usize,
        /// Columns of the tile.
        cols: usize,
    },

    /// A width of codes that the affine formats do not have.
    #[error("affine codes are {found} bits, and must be {least} to 6, or 8")]
    Bits {
        /// Bits asked for.
        found: usize,
        /// The fewest that there are.
        least: usize,
    },

    /// An affine group of no weights.
    #[error("an affine group of 0 weights holds no weight; a group has 1 at least")]
    EmptyGroup,

    /// Weights that are not whole groups.
    #[error("{weights} weights are not whole groups of {group}; take a group that divides them")]
    Groups {
        /// Weights there are.
        weights: usize,
        /// Weights of a group.
        group: usize,
    },

    /// A column that belongs to a group that its row does not have.
    #[error("column {column} is in group {found} of a row that has {groups}")]
    Order {
        /// The column.
        column: usize,
        /// The group it names.
        found: u32,
        /// Groups of a row.
        groups: usize,
    },

    /// A group size that MLX does not have.
    #[error("an MLX group is {found} weights, and must be 32, 64 or 128")]
    Group {
        /// Weights asked for.
        found: usize,
    },

    /// Rows that groups would straddle.
    #[error("a row of {cols} weights is not whole groups of {group}: {}", group_advice(*cols))]
    Columns {
        /// Weights of a row.
        cols: usize,
        /// Weights of a group.
        group: usize,
    },

    /// Rows that blocks of a GGUF file would straddle.
    #[error("a row of {cols} weights is not whole {kind} blocks of {}: {}", kind.block(), block_advice(*cols))]
    BlockColumns {
        /// Weights of a row.
        cols: usize,
        /// The block type.
        kind: Gguf,
    },

    /// A block type that is only read.
    #[error("{kind} blocks are read and never chosen; take one of {}", names(&Gguf::CHOSEN))]
    Unchosen {
        /// The block type.
        kind: Gguf,
    },

    /// A fixed scale that cannot scale anything.
    #[error("a fixed fp8 scale is {found}, and must be positive and finite")]
    Scale {
        /// The scale asked for.
        found: f32,
    },

    /// A fixed scale for less than the whole weight.
    #[error("a fixed fp8 scale serves the whole weight, and `scale={tile}` asks for one a tile")]
    FixedTile {
        /// The tile asked for.
        tile: Tile,
    },

    /// Nested scales whose mean is not finite: every value of the weight would be lost.
    #[error(
        "the mean of its scales is {mean}, since a value is NaN, infinite or near the end of f32, and nested scales need a finite one: take plain scales, or leave this weight dense"
    )]
    NestedMean {
        /// The mean.
        mean: f32,
    },

    /// A weight too large to count its bytes.
    #[error("a weight of {rows} x {cols} is more than memory can address")]
    Size {
        /// Rows of the weight.
        rows: usize,
        /// Columns of the weight.
        cols: usize,
    },

    /// A row that the weight does not have.
    #[error("row {row} of a weight that has {rows} rows")]
    Row {
        /// The row asked for.
        row: usize,
        /// Rows there are.
        rows: usize,
    },

    /// A buffer does not hold what shape and format imply.
    #[error("{buffer} holds {found} words, {format} of {rows} x {cols} weights needs {needed}")]
    Length {
        /// `"words"` or `"scales"`.
        buffer: &'static str,
        /// Words found.
        found: usize,
        /// Words needed.
        needed: usize,
        /// The format, as it prints.
        format: String,
        /// Rows of the weight.
        rows: usize,
        /// Columns of the weight.
        cols: usize,
    },
}

/// The names of block types, as a list.
fn names(kinds: &[Gguf]) -> String {
    kinds
        .iter()
        .map(Gguf::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

/// Advice about rows that are not whole blocks.
const fn block_advice(cols: usize) -> &'static str {
    if cols.is_multiple_of(32) {
        "take a type with blocks of 32, as q4_0, q5_0, q8_0 and iq4_nl"
    } else {
        "no block fits, so leave this weight dense"
    }
}

/// Advice about rows that are not whole groups.
fn group_advice(cols: usize) -> String {
    match [128, 64, 32]
        .into_iter()
        .find(|group| cols.is_multiple_of(*group))
    {
        Some(group) => format!("take groups of {group}"),
        None => "no group fits, so leave this weight dense or give it another format".to_owned(),
    }
}
