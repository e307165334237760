//! The meaning of packed words: the closed list of formats, their sizes, and a packed weight on the host.
//!
//! Letters: `o` rows (output features), `i` columns (input features), `n = o * i`.

mod affine;
pub(crate) mod blocks;
pub(crate) mod error;
pub(crate) mod fp8;
mod gguf;
mod gguf_rows;
mod half;
mod micro;
mod packed;
mod part;
mod slice;

use core::fmt;

pub use affine::{Affine, Along, Offset};
pub use blocks::Blocks;
pub use error::FormatError;
pub use fp8::{Fp8Kind, Tile};
pub use gguf::Gguf;
pub use half::Half;
pub use micro::Micro;
pub use packed::Packed;
pub(crate) use packed::PackedRows;
pub use part::PART_VALUES_MAX;
pub use slice::{MatrixAxis, Uncut};

use crate::arith::pack;

/// How many words a weight of `[o, i]` takes, and their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum Format {
    /// Sixteen normal-quantile levels times a block's largest magnitude.
    Nf4(Blocks),
    /// Sixteen 4-bit float values times a block's largest magnitude.
    Fp4(Blocks),
    /// One 8-bit float a weight, times the scale of its tile.
    Fp8(Fp8Kind, Tile),
    /// One whole number a weight, times the scale of its group, and an offset.
    Affine(Affine),
    /// One signed byte a weight, times the largest magnitude of its row, over 127.
    Int8,
    /// One small float a weight, times the 8-bit scale of its group.
    Micro(Micro),
    /// The weights themselves, each a 16-bit float: dense values that are multiplied as they are stored.
    Half(Half),
    /// Blocks of a GGUF file, as they stand there: the scales are among the words.
    Gguf(Gguf),
}

impl Format {
    /// Checks the values of the fields.
    ///
    /// # Errors
    ///
    /// [`FormatError::Block`], [`FormatError::Tile`], [`FormatError::Bits`] and
    /// [`FormatError::EmptyGroup`].
    pub fn validate(self) -> Result<(), FormatError> {
        match self {
            Self::Nf4(blocks) => Blocks::new("nf4", blocks.block, blocks.nested).map(drop),
            Self::Fp4(blocks) => Blocks::new("fp4", blocks.block, blocks.nested).map(drop),
            Self::Fp8(_, Tile::Block { rows, cols }) if rows == 0 || cols == 0 => {
                Err(FormatError::Tile { rows, cols })
            }
            Self::Affine(affine) => {
                let Affine {
                    bits,
                    group,
                    along,
                    form,
                    params,
                } = affine;
                Affine::new(bits, group, along, form, params).map(drop)
            }
            Self::Fp8(..) | Self::Int8 | Self::Micro(_) | Self::Half(_) | Self::Gguf(_) => Ok(()),
        }
    }

    /// Checks that a weight of `shape` can be in this format at all, and what [`validate`](Self::validate)
    /// checks. The lengths below mean nothing for a shape that does not pass.
    ///
    /// # Errors
    ///
    /// As [`validate`](Self::validate), [`FormatError::Groups`], [`FormatError::Columns`] and
    /// [`FormatError::BlockColumns`].
    pub fn validate_shape(self, shape: [usize; 2]) -> Result<(), FormatError> {
        self.validate()?;
        match self {
            Self::Affine(affine) => affine.check_shape(shape),
            Self::Micro(micro) => micro.check_columns(shape[1]),
            Self::Gguf(kind) => kind.check_columns(shape[1]),
            Self::Nf4(_) | Self::Fp4(_) | Self::Fp8(..) | Self::Int8 | Self::Half(_) => Ok(()),
        }
    }

    /// Whether devices read the format: all do, but for those blocks of GGUF files that no packer chooses.
    pub fn on_device(self) -> bool {
        !matches!(self, Self::Gguf(kind) if !Gguf::CHOSEN.contains(&kind))
    }

    /// Words of codes.
    pub const fn words_len(self, [o, i]: [usize; 2]) -> usize {
        // A product that saturates is longer than any buffer, so it cannot pass for a length.
        match self {
            Self::Nf4(_) | Self::Fp4(_) => o.saturating_mul(i).div_ceil(pack::CODES4),
            Self::Fp8(..) | Self::Int8 => o.saturating_mul(i).div_ceil(pack::CODES8),
            Self::Affine(Affine { bits, .. }) => o
                .saturating_mul(i)
                .div_ceil(pack::STREAM)
                .saturating_mul(bits),
            Self::Micro(micro) => o.saturating_mul(i).div_ceil(micro.codes()),
            Self::Half(_) => o.saturating_mul(i).div_ceil(pack::HALVES),
            Self::Gguf(kind) => kind.words_len([o, i]),
        }
    }

    /// Words of scales.
    ///
    /// ```text
    /// 4-bit           absmax f32 [ceil(n / block)]
    /// 4-bit, nested   codes [ceil(g / 4)], upper f32 [ceil(g / 256)], offset f32   (g scales)
    /// fp8             f32, one a tile, row-major over the tiles
    /// affine, f32     scale f32, offset f32, one pair a group, in the order of the groups
    /// affine, 16-bit  the same pairs in a word each, the scale in its low half
    /// affine, ordered the same pairs, then the list of columns [i]: which group of its row each belongs to
    /// int8            f32, one a row
    /// micro           bytes, four a word, one a group, row-major; the global one f32, last
    /// half, gguf      none
    /// ```
    ///
    /// # Panics
    ///
    /// When [`validate`](Self::validate) does not pass.
    pub fn scales_len(self, shape: [usize; 2]) -> usize {
        match self {
            Self::Nf4(blocks) | Self::Fp4(blocks) => {
                blocks.scales_len(shape[0].saturating_mul(shape[1]))
            }
            Self::Fp8(_, tile) => {
                let [rows, cols] = tile.grid(shape);
                rows.saturating_mul(cols)
            }
            Self::Affine(affine) => affine.scales_len(shape),
            Self::Int8 => shape[0],
            Self::Micro(micro) => micro.scales_len(shape),
            Self::Half(_) | Self::Gguf(_) => 0,
        }
    }

    /// Bytes of words and scales together.
    pub fn packed_bytes(self, shape: [usize; 2]) -> usize {
        (self.words_len(shape).saturating_add(self.scales_len(shape))).saturating_mul(4)
    }

    /// Bits of a code, scales not counted.
    pub const fn code_bits(self) -> usize {
        match self {
            Self::Nf4(_) | Self::Fp4(_) => 4,
            Self::Fp8(..) | Self::Int8 => 8,
            Self::Affine(affine) => affine.bits,
            Self::Micro(micro) => micro.bits(),
            Self::Half(_) => 16,
            Self::Gguf(kind) => kind.bits(),
        }
    }

    /// Bits for each weight, scales included; 0 for an empty weight.
    pub fn bits_per_weight(self, shape: [usize; 2]) -> f64 {
        let n = shape[0] as f64 * shape[1] as f64;
        if n == 0.0 {
            0.0
        } else {
            8.0 * self.packed_bytes(shape) as f64 / n
        }
    }

    /// Panics unless the buffers are as long as they have to be.
    pub(crate) fn assert_lengths(self, shape: [usize; 2], words: &[u32], scales: &[u32]) {
        assert_eq!(
            words.len(),
            self.words_len(shape),
            "words of {self} {shape:?}"
        );
        assert_eq!(
            scales.len(),
            self.scales_len(shape),
            "scales of {self} {shape:?}"
        );
    }
}

/// The words that ask for a quantization: `nf4:block=64,nested`, `fp8:e4m3,scale=channel`, `fp8:e4m3,scale=block`
/// (128 x 128), `fp8:e5m2,scale=64x32`, `int8`. `bf16` and `f16` name a type, and ask for nothing. Several methods choose affine codes, each with its own word:
/// `affine:bits=4,group=64,bias=bf16` names the format that they share.
impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nf4(blocks) => write!(f, "nf4:{blocks}"),
            Self::Fp4(blocks) => write!(f, "fp4:{blocks}"),
            Self::Fp8(kind, tile) => write!(f, "fp8:{kind},scale={tile}"),
            Self::Affine(affine) => write!(f, "affine:{affine}"),
            Self::Int8 => f.write_str("int8"),
            Self::Micro(micro) => write!(f, "{micro}"),
            Self::Half(half) => write!(f, "{half}"),
            Self::Gguf(kind) => write!(f, "{kind}"),
        }
    }
}
