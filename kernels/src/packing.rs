//! The methods that choose codes, as one list of values: each has a host half, some have a device half.

use core::fmt;

use crate::arith::float::DType;
use crate::arith::pack::CODES8;
use crate::arith::whole;
use crate::format::FormatError;
use crate::format::{Blocks, Format, Fp8Kind, Gguf, Micro, Tile};
use crate::formats::fp8::{self, Recipe};
use crate::formats::hqq::Hqq;
use crate::formats::wna16::{ScaleGroup, Wna16};
use crate::formats::{affine, bits4, gguf, int8, micro};
use crate::packer::Packer;

/// Chooses codes and scales for one weight.
///
/// A method decides *which* codes; a [`Format`] says what a code means. HQQ and MLX are two methods for one format.
/// [`Packing`] lists the methods of this crate; a custom method implements this trait.
pub trait Method: fmt::Debug + Send + Sync {
    /// The format that a weight of `[out, in]`, stored as `source`, is packed into. It is known before a byte is read:
    /// a plan takes its sizes from it.
    ///
    /// # Errors
    ///
    /// [`FormatError`] when the method cannot represent the weight.
    fn format(&self, shape: [usize; 2], source: DType) -> Result<Format, FormatError>;

    /// Starts to pack one weight of `[out, in]`, stored as `source`, into the [`format`](Self::format) of these two.
    ///
    /// # Errors
    ///
    /// As [`format`](Self::format).
    fn packer(&self, shape: [usize; 2], source: DType) -> Result<Box<dyn Packer>, FormatError>;

    /// A method that every device has and that chooses the same codes, to the bit. Without one, weights are packed on
    /// the host and uploaded.
    fn on_device(&self) -> Option<Packing> {
        None
    }
}

/// A method of this crate.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum Packing {
    /// The nearest NF4 level, as bitsandbytes chooses it: [`bits4::nf4`].
    Nf4(Blocks),
    /// The nearest FP4 level, as bitsandbytes chooses it: [`bits4::fp4`].
    Fp4(Blocks),
    /// The nearest 8-bit float: [`fp8::packer`].
    Fp8 {
        /// Which 8-bit float.
        kind: Fp8Kind,
        /// Which weights share a scale.
        tile: Tile,
        /// How the scale is computed.
        recipe: Recipe,
    },
    /// The nearest of evenly spaced values between the smallest and the largest of a group, as MLX chooses it:
    /// [`affine::packer`]. Scales and biases are stored in the type of the weight.
    Mlx {
        /// Bits of a code.
        bits: usize,
        /// Weights of a row that share a scale and a bias.
        group: usize,
    },
    /// The nearest signed byte, as bitsandbytes chooses it for LLM.int8: [`int8::packer`].
    Int8,
    /// Whole numbers whose zeros are moved until the error is sparse, as hqq chooses them. Scales and zeros are stored in
    /// the type of the weight: [`Hqq::params`] is ignored.
    Hqq(Hqq),
    /// Whole numbers between the ends of a group, as compressed-tensors chooses them.
    Wna16(Wna16),
    /// Small floats with an 8-bit scale for each group of a row, as MLX chooses them: [`micro::packer`].
    Micro(Micro),
    /// Blocks of a GGUF file, as llama.cpp chooses them without an importance matrix: [`gguf::packer`].
    Gguf(Gguf),
}

impl Packing {
    /// NF4 in blocks of `block`; `nested` stores the scales as 8-bit codes.
    ///
    /// # Errors
    ///
    /// [`FormatError::Block`] unless `block` is a power of two from 32 to 4096.
    pub fn nf4(block: usize, nested: bool) -> Result<Self, FormatError> {
        Blocks::new("nf4", block, nested).map(Self::Nf4)
    }

    /// FP4 in blocks of `block`; `nested` stores the scales as 8-bit codes.
    ///
    /// # Errors
    ///
    /// As [`nf4`](Self::nf4).
    pub fn fp4(block: usize, nested: bool) -> Result<Self, FormatError> {
        Blocks::new("fp4", block, nested).map(Self::Fp4)
    }

    /// Which 8-bit float, which weights share a scale, and how the scale is computed.
    ///
    /// # Errors
    ///
    /// [`FormatError::Tile`] for a tile without weights, [`FormatError::Scale`] for a fixed scale that is not positive
    /// and finite, [`FormatError::FixedTile`] for a fixed scale of another tile than [`Tile::Tensor`].
    pub fn fp8(kind: Fp8Kind, tile: Tile, recipe: Recipe) -> Result<Self, FormatError> {
        Format::Fp8(kind, tile).validate()?;
        recipe.validate()?;
        if matches!(recipe, Recipe::Fixed(_)) && tile != Tile::Tensor {
            return Err(FormatError::FixedTile { tile });
        }
        Ok(Self::Fp8 { kind, tile, recipe })
    }

    /// MLX's codes of `bits` bits; `group` weights of a row share a scale and a bias.
    ///
    /// # Errors
    ///
    /// [`FormatError::Bits`] unless `bits` is 2, 3, 4, 5, 6 or 8, [`FormatError::Group`] unless `group` is 32, 64 or 128.
    pub fn mlx(bits: usize, group: usize) -> Result<Self, FormatError> {
        affine::check_mlx(bits, group).map(|()| Self::Mlx { bits, group })
    }

    /// Blocks of a GGUF file.
    ///
    /// # Errors
    ///
    /// [`FormatError::Unchosen`] unless the type is one of [`Gguf::CHOSEN`].
    pub fn gguf(kind: Gguf) -> Result<Self, FormatError> {
        gguf::check(kind).map(|()| Self::Gguf(kind))
    }

    /// The format that a weight of `shape` `[o, i]`, stored as `source`, is packed into.
    ///
    /// # Errors
    ///
    /// [`FormatError`] when the method cannot represent the weight.
    pub fn format(self, shape: [usize; 2], source: DType) -> Result<Format, FormatError> {
        let format = match self {
            Self::Nf4(blocks) => Format::Nf4(blocks),
            Self::Fp4(blocks) => Format::Fp4(blocks),
            Self::Fp8 { kind, tile, .. } => Format::Fp8(kind, tile),
            Self::Mlx { bits, group } => {
                Format::Affine(affine::mlx_format(shape, source, bits, group)?)
            }
            Self::Int8 => Format::Int8,
            Self::Hqq(hqq) => return hqq.stored_as(source).format(shape),
            Self::Wna16(wna16) => return wna16.format(shape, source),
            Self::Micro(micro) => Format::Micro(micro),
            Self::Gguf(kind) => {
                gguf::check(kind)?;
                Format::Gguf(kind)
            }
        };
        format.validate_shape(shape).map(|()| format)
    }

    /// The same without nested scales: some rows of a weight can be packed on their own by it.
    pub const fn plain(self) -> Self {
        match self {
            Self::Nf4(blocks) => Self::Nf4(blocks.plain()),
            Self::Fp4(blocks) => Self::Fp4(blocks.plain()),
            other => other,
        }
    }

    /// Whether devices choose these codes too, to the bit: `quantize` is the device half.
    pub const fn on_device(self) -> bool {
        match self {
            Self::Nf4(_) | Self::Fp4(_) | Self::Fp8 { .. } | Self::Mlx { .. } | Self::Int8 => true,
            Self::Hqq(_) | Self::Wna16(_) | Self::Micro(_) | Self::Gguf(_) => false,
        }
    }

    /// Whether packing some rows of a weight gives these rows of the packed weight, or, with `along_in`, some columns, where
    /// groups and tiles end with them: no scale depends on values outside.
    pub fn is_local(self, along_in: bool) -> bool {
        match self {
            Self::Nf4(blocks) | Self::Fp4(blocks) => !blocks.nested,
            Self::Fp8 { tile, recipe, .. } => match tile {
                Tile::Tensor => matches!(recipe, Recipe::Fixed(_)),
                Tile::Row => !along_in,
                Tile::Block { .. } => true,
            },
            Self::Mlx { .. } | Self::Gguf(_) => true,
            Self::Int8 => !along_in,
            // It stops at the error of the whole weight.
            Self::Hqq(_) => false,
            Self::Wna16(wna16) => match wna16.scale {
                ScaleGroup::Group(_) => true,
                ScaleGroup::Channel => !along_in,
                ScaleGroup::Tensor => false,
            },
            Self::Micro(micro) => !micro.is_global(),
        }
    }

    /// How often a weight of `shape` is read: twice where a scale depends on all of it. As [`Packer::passes`].
    pub fn passes(self, shape: [usize; 2]) -> usize {
        match self {
            Self::Nf4(_) | Self::Fp4(_) | Self::Mlx { .. } | Self::Int8 | Self::Gguf(_) => 1,
            Self::Fp8 { tile, recipe, .. } => recipe.passes(tile),
            Self::Hqq(hqq) => hqq.passes(shape),
            Self::Wna16(wna16) => wna16.passes(),
            Self::Micro(micro) => micro.passes(),
        }
    }

    /// Rows of a weight of `shape` that have to stay together. As [`Packer::tile_rows`].
    pub fn tile_rows(self, shape: [usize; 2]) -> usize {
        match self {
            Self::Nf4(blocks) | Self::Fp4(blocks) => whole::tile_rows(shape, 1, blocks.block),
            Self::Fp8 { tile, .. } => tile.rows_together(shape),
            Self::Mlx { .. } | Self::Micro(_) => 1,
            Self::Int8 => whole::tile_rows(shape, 1, CODES8),
            Self::Hqq(hqq) => hqq.tile_rows(shape),
            Self::Wna16(wna16) => wna16.tile_rows(shape),
            Self::Gguf(kind) => gguf::tile_rows(shape, kind),
        }
    }

    /// The host half.
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
            Self::Hqq(hqq) => hqq.stored_as(source).packer(shape, source),
            Self::Wna16(wna16) => wna16.packer(shape, source),
            Self::Micro(micro) => micro::packer(shape, source, micro),
            Self::Gguf(kind) => gguf::packer(shape, source, kind),
        }
    }
}

impl Method for Packing {
    fn format(&self, shape: [usize; 2], source: DType) -> Result<Format, FormatError> {
        (*self).format(shape, source)
    }

    fn packer(&self, shape: [usize; 2], source: DType) -> Result<Box<dyn Packer>, FormatError> {
        (*self).packer(shape, source)
    }

    fn on_device(&self) -> Option<Packing> {
        (*self).on_device().then_some(*self)
    }
}
