//! How codes are chosen, as a value that names the host half and the device half alike.

use crate::error::FormatError;
use crate::float::FloatBits;
use crate::format::{Blocks, Format, Fp8Kind, Tile};
use crate::fp8::{self, Recipe};
use crate::packer::{self, Packer};
use crate::{fp4, nf4};

/// A way to pack that both the host and a device have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Packing {
    /// NF4.
    Nf4(Blocks),
    /// FP4.
    Fp4(Blocks),
    /// FP8.
    Fp8 {
        /// kind
        kind: Fp8Kind,
        /// tile
        tile: Tile,
        /// recipe
        recipe: Recipe,
    },
}

impl Packing {
    /// What it packs a weight of `shape` into.
    pub fn format(self, _shape: [usize; 2]) -> Result<Format, FormatError> {
        Ok(match self {
            Self::Nf4(blocks) => Format::Nf4(blocks),
            Self::Fp4(blocks) => Format::Fp4(blocks),
            Self::Fp8 { kind, tile, .. } => Format::Fp8(kind, tile),
        })
    }

    /// The same without nested scales: what one tile of a weight can be packed into by itself.
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

    /// Rows of a weight of `shape` that have to stay together.
    pub fn tile_rows(self, shape: [usize; 2]) -> usize {
        match self {
            Self::Nf4(blocks) | Self::Fp4(blocks) => packer::tile_rows(shape, 1, blocks.block),
            Self::Fp8 { tile, .. } => fp8::tile_rows(shape, tile),
        }
    }

    /// The host's packer.
    pub fn packer(
        self,
        shape: [usize; 2],
        source: FloatBits,
    ) -> Result<Box<dyn Packer>, FormatError> {
        match self {
            Self::Nf4(Blocks { block, nested }) => nf4::packer(shape, source, block, nested),
            Self::Fp4(Blocks { block, nested }) => fp4::packer(shape, source, block, nested),
            Self::Fp8 { kind, tile, recipe } => fp8::packer(shape, source, kind, tile, recipe),
        }
    }
}
