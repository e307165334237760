//! How codes are chosen, as a value that names the host half and the device half alike.

use crate::arith::float::DType;
use crate::arith::pack::CODES8;
use crate::arith::whole;
use crate::error::FormatError;
use crate::format::{Blocks, Format, Fp8Kind, Tile};
use crate::formats::fp8::{self, Recipe};
use crate::formats::{affine, bits4, int8};
use crate::packer::Packer;

/// A way to choose codes that the host and every device have.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum Packing {
    /// The nearest NF4 level, as [`bits4::nf4`].
    Nf4(Blocks),
    /// The nearest FP4 level, as [`bits4::fp4`].
    Fp4(Blocks),
    /// The nearest 8-bit float, as [`fp8::packer`].
    Fp8 {
        /// Which 8-bit float.
        kind: Fp8Kind,
        /// Which weights share a scale.
        tile: Tile,
        /// How the scale is computed.
        recipe: Recipe,
    },
    /// MLX's whole numbers between a group's ends, as [`affine::packer`].
    Mlx {
        /// Bits of a code.
        bits: usize,
        /// Weights that share a scale and a bias.
        group: usize,
    },
    /// bitsandbytes' signed byte, as [`int8::packer`].
    Int8,
}

impl Packing {
    /// What it packs a weight of `shape` `[o, i]`, stored as `source`, into.
    ///
    /// # Errors
    ///
    /// [`FormatError`] when it cannot represent such a weight.
    pub fn format(self, shape: [usize; 2], source: DType) -> Result<Format, FormatError> {
        let format = match self {
            Self::Nf4(blocks) => Format::Nf4(blocks),
            Self::Fp4(blocks) => Format::Fp4(blocks),
            Self::Fp8 { kind, tile, .. } => Format::Fp8(kind, tile),
            Self::Mlx { bits, group } => affine::mlx_format(shape, source, bits, group)?,
            Self::Int8 => Format::Int8,
        };
        format.validate_shape(shape).map(|()| format)
    }

    /// The same without nested scales: what some rows of a weight can be packed into by themselves.
    pub const fn plain(self) -> Self {
        match self {
            Self::Nf4(blocks) => Self::Nf4(blocks.plain()),
            Self::Fp4(blocks) => Self::Fp4(blocks.plain()),
            other => other,
        }
    }

    /// How often the source is read: twice where one scale needs all of it.
    pub const fn passes(self) -> usize {
        match self {
            Self::Fp8 { tile, recipe, .. } => recipe.passes(tile),
            _ => 1,
        }
    }

    /// Rows of a weight of `shape` that have to stay together, as [`Packer::tile_rows`].
    pub fn tile_rows(self, shape: [usize; 2]) -> usize {
        match self {
            Self::Nf4(blocks) | Self::Fp4(blocks) => whole::tile_rows(shape, 1, blocks.block),
            Self::Fp8 { tile, .. } => tile.rows_together(shape),
            Self::Mlx { .. } => 1,
            Self::Int8 => whole::tile_rows(shape, 1, CODES8),
        }
    }

    /// The host's half.
    ///
    /// # Errors
    ///
    /// As [`format`](Self::format), and [`FormatError::Size`].
    pub fn packer(self, shape: [usize; 2], source: DType) -> Result<Box<dyn Packer>, FormatError> {
        match self {
            Self::Nf4(Blocks { block, nested }) => bits4::nf4(shape, source, block, nested),
            Self::Fp4(Blocks { block, nested }) => bits4::fp4(shape, source, block, nested),
            Self::Fp8 { kind, tile, recipe } => fp8::packer(shape, source, kind, tile, recipe),
            Self::Mlx { bits, group } => affine::packer(shape, source, bits, group),
            Self::Int8 => int8::packer(shape, source),
        }
    }
}
