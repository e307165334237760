//! What a device can choose codes for by itself, named once for the host and for the device.

use crate::error::FormatError;
use crate::float::FloatBits;
use crate::format::{Blocks, Format, Fp8Kind, Tile};
use crate::fp8::{self, Recipe};
use crate::packer::Packer;
use crate::{fp4, nf4};

/// A way of choosing codes that needs a weight and nothing else. What comes out is the same bits on the host
/// ([`packer`](Self::packer)) and, with the feature `cube`, on a device (`quantize`).
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Packing {
    /// NF4 under the largest magnitudes of blocks.
    Nf4(Blocks),
    /// FP4 under the largest magnitudes of blocks.
    Fp4(Blocks),
    /// An 8-bit float under the scales of tiles.
    Fp8 {
        /// Which float.
        kind: Fp8Kind,
        /// Which weights share a scale.
        tile: Tile,
        /// How scales and codes follow.
        recipe: Recipe,
    },
}

impl Packing {
    /// What a packed weight of `shape` `[o, i]` then is.
    ///
    /// # Errors
    ///
    /// What [`Format::validate`] and [`Recipe::validate`] refuse.
    pub fn format(self, _shape: [usize; 2]) -> Result<Format, FormatError> {
        let format = match self {
            Self::Nf4(blocks) => Format::Nf4(blocks),
            Self::Fp4(blocks) => Format::Fp4(blocks),
            Self::Fp8 { kind, tile, recipe } => {
                recipe.validate()?;
                Format::Fp8(kind, tile)
            }
        };
        format.validate()?;
        Ok(format)
    }

    /// Chooses codes on the host.
    ///
    /// # Errors
    ///
    /// As [`format`](Self::format), and [`FormatError::Size`].
    pub fn packer(
        self,
        shape: [usize; 2],
        source: FloatBits,
    ) -> Result<Box<dyn Packer>, FormatError> {
        match self {
            Self::Nf4(blocks) => nf4::packer(shape, source, blocks.block, blocks.nested),
            Self::Fp4(blocks) => fp4::packer(shape, source, blocks.block, blocks.nested),
            Self::Fp8 { kind, tile, recipe } => fp8::packer(shape, source, kind, tile, recipe),
        }
    }
}
