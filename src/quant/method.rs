//! Choosing codes and scales for one weight.

use core::fmt::Debug;

use firebox_kernels::{
    error::FormatError,
    float::FloatBits,
    format::{Blocks, Format, Fp8Kind, Tile},
    fp4,
    fp8::{self, Recipe},
    nf4,
    packer::Packer,
};

/// Chooses codes and scales for one weight.
///
/// A method decides *which* codes; what a code means is the format's business and lives in
/// `firebox-kernels` ([`kernels`](super::kernels)). HQQ and MLX-affine are two methods for one format.
pub trait Method: Debug + Send + Sync {
    /// What the packed weight will be, known before a byte is read: the plan's sizes come from it.
    ///
    /// # Errors
    ///
    /// [`FormatError`] when the method cannot represent a weight of this `[out, in]`.
    fn format(&self, shape: [usize; 2]) -> Result<Format, FormatError>;

    /// Starts one weight of `[out, in]`, stored as `source`. What is packed has the
    /// [`format`](Self::format) of this shape.
    ///
    /// # Errors
    ///
    /// As [`format`](Self::format).
    fn packer(&self, shape: [usize; 2], source: FloatBits) -> Result<Box<dyn Packer>, FormatError>;
}

/// The nearest of sixteen levels, scaled by the largest magnitude of each block, as bitsandbytes
/// chooses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bits4 {
    /// Levels at the quantiles of a normal distribution.
    Nf4(Blocks),
    /// Levels of a 4-bit float.
    Fp4(Blocks),
}

impl Method for Bits4 {
    fn format(&self, _shape: [usize; 2]) -> Result<Format, FormatError> {
        Ok(match *self {
            Self::Nf4(blocks) => Format::Nf4(blocks),
            Self::Fp4(blocks) => Format::Fp4(blocks),
        })
    }

    fn packer(&self, shape: [usize; 2], source: FloatBits) -> Result<Box<dyn Packer>, FormatError> {
        match *self {
            Self::Nf4(Blocks { block, nested }) => nf4::packer(shape, source, block, nested),
            Self::Fp4(Blocks { block, nested }) => fp4::packer(shape, source, block, nested),
        }
    }
}

/// The nearest 8-bit float after scaling the largest magnitude of each tile to the largest float, or by
/// a scale known beforehand.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fp8 {
    kind: Fp8Kind,
    tile: Tile,
    recipe: Recipe,
}

impl Fp8 {
    /// Which 8-bit float, which weights share a scale, and how the scale is computed.
    ///
    /// # Errors
    ///
    /// [`FormatError::Tile`] for a tile without weights, [`FormatError::Scale`] for a fixed scale that
    /// is not positive and finite, [`FormatError::FixedTile`] for a fixed scale of another tile than
    /// [`Tile::Tensor`].
    pub fn new(kind: Fp8Kind, tile: Tile, recipe: Recipe) -> Result<Self, FormatError> {
        Format::Fp8(kind, tile).validate()?;
        recipe.validate()?;
        if matches!(recipe, Recipe::Fixed(_)) && tile != Tile::Tensor {
            return Err(FormatError::FixedTile { tile });
        }
        Ok(Self { kind, tile, recipe })
    }

    /// Which 8-bit float.
    pub fn kind(self) -> Fp8Kind {
        self.kind
    }

    /// Which weights share a scale.
    pub fn tile(self) -> Tile {
        self.tile
    }

    /// How the scale is computed and rounded.
    pub fn recipe(self) -> Recipe {
        self.recipe
    }
}

impl Method for Fp8 {
    fn format(&self, _shape: [usize; 2]) -> Result<Format, FormatError> {
        Ok(Format::Fp8(self.kind, self.tile))
    }

    fn packer(&self, shape: [usize; 2], source: FloatBits) -> Result<Box<dyn Packer>, FormatError> {
        fp8::packer(shape, source, self.kind, self.tile, self.recipe)
    }
}
