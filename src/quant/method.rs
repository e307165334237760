//! Choosing codes and scales for one weight.

use core::fmt::Debug;

use firebox_kernels::{
    arith::float::DType,
    error::FormatError,
    format::{Blocks, Format, Fp8Kind, Micro, Tile},
    formats::{affine, fp8::Recipe, hqq::Hqq, micro, wna16::Wna16},
    packer::Packer,
    packing::Packing,
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
    fn format(&self, shape: [usize; 2], source: DType) -> Result<Format, FormatError>;

    /// Starts one weight of `[out, in]`, stored as `source`. What is packed has the
    /// [`format`](Self::format) of these two.
    ///
    /// # Errors
    ///
    /// As [`format`](Self::format).
    fn packer(&self, shape: [usize; 2], source: DType) -> Result<Box<dyn Packer>, FormatError>;

    /// What a device can do in this method's stead, if it can: the same codes to the bit. Without it,
    /// weights are packed on the host and uploaded.
    fn packing(&self) -> Option<Packing> {
        None
    }
}

/// A method that is one of the kernels' own.
macro_rules! method {
    ($method:ty, |$this:ident| $packing:expr) => {
        impl Method for $method {
            fn format(&self, shape: [usize; 2], source: DType) -> Result<Format, FormatError> {
                let $this = self;
                $packing.format(shape, source)
            }

            fn packer(
                &self,
                shape: [usize; 2],
                source: DType,
            ) -> Result<Box<dyn Packer>, FormatError> {
                let $this = self;
                $packing.packer(shape, source)
            }

            fn packing(&self) -> Option<Packing> {
                let $this = self;
                Some($packing)
            }
        }
    };
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

method!(Bits4, |this| match *this {
    Bits4::Nf4(blocks) => Packing::Nf4(blocks),
    Bits4::Fp4(blocks) => Packing::Fp4(blocks),
});

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

method!(Fp8, |this| Packing::Fp8 {
    kind: this.kind,
    tile: this.tile,
    recipe: this.recipe,
});

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
        affine::check_mlx(bits, group)?;
        Ok(Self { bits, group })
    }

    /// Bits of a code.
    pub fn bits(self) -> usize {
        self.bits
    }

    /// Weights that share a scale and a bias.
    pub fn group(self) -> usize {
        self.group
    }
}

method!(Mlx, |this| Packing::Mlx {
    bits: this.bits,
    group: this.group,
});

/// The nearest signed byte after scaling the largest magnitude of each row to 127, as bitsandbytes chooses
/// it for LLM.int8, from the weight as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Int8;

method!(Int8, |_this| Packing::Int8);

/// Whole numbers whose zeros are moved until the error is sparse, as hqq chooses them. Scales and zeros are
/// stored in the weight's own type, and `params` says nothing.
impl Method for Hqq {
    fn format(&self, shape: [usize; 2], source: DType) -> Result<Format, FormatError> {
        stored_as(*self, source).format(shape)
    }

    fn packer(&self, shape: [usize; 2], source: DType) -> Result<Box<dyn Packer>, FormatError> {
        stored_as(*self, source).packer(shape, source)
    }
}

fn stored_as(hqq: Hqq, params: DType) -> Hqq {
    Hqq { params, ..hqq }
}

/// Whole numbers between the ends of a group, as compressed-tensors chooses them.
impl Method for Wna16 {
    fn format(&self, shape: [usize; 2], source: DType) -> Result<Format, FormatError> {
        (*self).format(shape, source)
    }

    fn packer(&self, shape: [usize; 2], source: DType) -> Result<Box<dyn Packer>, FormatError> {
        (*self).packer(shape, source)
    }
}

/// Small floats with an 8-bit scale for each group of a row, as MLX chooses them.
impl Method for Micro {
    fn format(&self, shape: [usize; 2], _: DType) -> Result<Format, FormatError> {
        let format = Format::Micro(*self);
        format.validate_shape(shape).map(|()| format)
    }

    fn packer(&self, shape: [usize; 2], source: DType) -> Result<Box<dyn Packer>, FormatError> {
        micro::packer(shape, source, *self)
    }
}
