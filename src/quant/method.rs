//! Choosing codes and scales for one weight.

use core::fmt::Debug;

use firebox_kernels::{
    affine,
    error::FormatError,
    float::FloatBits,
    format::{Affine, Blocks, Format, Fp8Kind, Offset, Tile},
    fp4,
    fp8::{self, Recipe},
    int8, nf4,
    packer::Packer,
};

/// Chooses codes and scales for one weight.
///
/// A method decides *which* codes; what a code means is the format's business and lives in
/// `firebox-kernels` ([`kernels`](super::kernels)). HQQ and MLX-affine are two methods for one format.
pub trait Method: Debug + Send + Sync {
    /// What a weight of `[out, in]`, stored as `source`, will be when it is packed, known before a byte
    /// is read: the plan's sizes come from it.
    ///
    /// # Errors
    ///
    /// [`FormatError`] when the method cannot represent such a weight.
    fn format(&self, shape: [usize; 2], source: FloatBits) -> Result<Format, FormatError>;

    /// Starts one weight of `[out, in]`, stored as `source`. What is packed has the
    /// [`format`](Self::format) of these two.
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
    fn format(&self, _shape: [usize; 2], _source: FloatBits) -> Result<Format, FormatError> {
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
    fn format(&self, _shape: [usize; 2], _source: FloatBits) -> Result<Format, FormatError> {
        Ok(Format::Fp8(self.kind, self.tile))
    }

    fn packer(&self, shape: [usize; 2], source: FloatBits) -> Result<Box<dyn Packer>, FormatError> {
        fp8::packer(shape, source, self.kind, self.tile, self.recipe)
    }
}

/// The nearest of evenly spaced values between the smallest and the largest weight of each group, as MLX
/// chooses it. Scales and biases are stored in the weight's own type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mlx {
    bits: usize,
    group: usize,
}

impl Mlx {
    /// Bits of a code, and how many weights of a row share a scale and a bias.
    ///
    /// # Errors
    ///
    /// [`FormatError::Bits`] unless `bits` is 2, 3, 4, 5, 6 or 8, [`FormatError::Group`] unless `group`
    /// is 32, 64 or 128.
    pub fn new(bits: usize, group: usize) -> Result<Self, FormatError> {
        let method = Self { bits, group };
        method.affine(FloatBits::F32).map(|_| method)
    }

    /// Bits of a code.
    pub fn bits(self) -> usize {
        self.bits
    }

    /// Weights that share a scale and a bias.
    pub fn group(self) -> usize {
        self.group
    }

    fn affine(self, source: FloatBits) -> Result<Affine, FormatError> {
        Affine::new(self.bits, self.group, Offset::Bias, source)
    }
}

impl Method for Mlx {
    fn format(&self, shape: [usize; 2], source: FloatBits) -> Result<Format, FormatError> {
        let format = Format::Affine(self.affine(source)?);
        format.validate_shape(shape).map(|()| format)
    }

    fn packer(&self, shape: [usize; 2], source: FloatBits) -> Result<Box<dyn Packer>, FormatError> {
        affine::packer(shape, source, self.bits, self.group)
    }
}

/// The nearest signed byte after scaling the largest magnitude of each row to 127, as bitsandbytes chooses
/// it for LLM.int8, from the weight as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Int8;

impl Method for Int8 {
    fn format(&self, _shape: [usize; 2], _source: FloatBits) -> Result<Format, FormatError> {
        Ok(Format::Int8)
    }

    fn packer(&self, shape: [usize; 2], source: FloatBits) -> Result<Box<dyn Packer>, FormatError> {
        int8::packer(shape, source)
    }
}
