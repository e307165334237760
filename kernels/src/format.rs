//! What packed words mean: the closed list of formats, their sizes, and a packed weight on the host.
//!
//! Letters: `o` rows (output features), `i` columns (input features), `n = o * i`.

mod affine;

use core::fmt;
use core::ops::Range;

use rayon::prelude::*;

pub use affine::{Affine, Along, Offset};

use crate::error::FormatError;
use crate::fp4::Fp4;
use crate::lanes::{self, Lanes, Work};
use crate::nf4::Nf4;
use crate::number::{Narrow, Number, Room};
use crate::{blocks, fp8, int8, micro, nested, pack};

pub use crate::micro::Micro;

/// Weights that a thread gives back at a time.
const PIECE: usize = 1 << 16;

/// How many words a weight of `[o, i]` takes and what they mean.
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
}

/// Blocks of a 4-bit format: they run over the *flattened* weight and may straddle rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Blocks {
    /// Weights under one scale: a power of two, 32 to 4096.
    pub block: usize,
    /// Scales are themselves 8-bit codes, 256 under one second-level scale.
    pub nested: bool,
}

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

impl Blocks {
    /// Blocks of `block` weights for the format called `format_name` in errors.
    ///
    /// # Errors
    ///
    /// [`FormatError::Block`] unless `block` is a power of two from 32 to 4096.
    pub const fn new(
        format_name: &'static str,
        block: usize,
        nested: bool,
    ) -> Result<Self, FormatError> {
        let (min, max) = (blocks::MIN, blocks::MAX);
        if block < min || block > max || !block.is_power_of_two() {
            return Err(FormatError::Block {
                format: format_name,
                found: block,
                min,
                max,
            });
        }
        Ok(Self { block, nested })
    }

    /// The same blocks with scales that are not nested.
    pub const fn plain(self) -> Self {
        let nested = false;
        Self { nested, ..self }
    }

    /// Scales of a weight of `n`.
    pub const fn count(self, n: usize) -> usize {
        n.div_ceil(self.block)
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
}

impl Format {
    /// Checks what the fields alone cannot say.
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
            Self::Fp8(..) | Self::Int8 | Self::Micro(_) => Ok(()),
        }
    }

    /// Checks that a weight of `shape` can be in this format at all, and what [`validate`](Self::validate)
    /// checks. The lengths below mean nothing for a shape that does not pass.
    ///
    /// # Errors
    ///
    /// As [`validate`](Self::validate), and [`FormatError::Groups`].
    pub fn validate_shape(self, shape: [usize; 2]) -> Result<(), FormatError> {
        self.validate()?;
        match self {
            Self::Affine(affine) => affine.check_shape(shape),
            Self::Micro(micro) => micro.check_columns(shape[1]),
            Self::Nf4(_) | Self::Fp4(_) | Self::Fp8(..) | Self::Int8 => Ok(()),
        }
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
    /// ```
    ///
    /// # Panics
    ///
    /// When [`validate`](Self::validate) does not pass.
    pub fn scales_len(self, shape: [usize; 2]) -> usize {
        match self {
            Self::Nf4(blocks) | Self::Fp4(blocks) => {
                let g = blocks.count(shape[0].saturating_mul(shape[1]));
                if blocks.nested {
                    nested::words_len(g)
                } else {
                    g
                }
            }
            Self::Fp8(_, tile) => {
                let [rows, cols] = tile.grid(shape);
                rows.saturating_mul(cols)
            }
            Self::Affine(affine) => affine.scales_len(shape),
            Self::Int8 => shape[0],
            Self::Micro(micro) => micro.scales_len(shape),
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

    /// Gives back the rows `rows` of a weight of `shape`, as `[rows, i]` in `out`.
    ///
    /// A value is one f32 product (and in two formats one step more), rounded once more where `out` holds halves.
    /// Runs on the current rayon pool where there are many.
    ///
    /// # Panics
    ///
    /// When a buffer's length or the range does not fit the shape, or the shape does not fit the format, or a list of
    /// columns is one that [`Packed::new`] refuses.
    pub fn dequantize_rows<T: Number>(
        self,
        shape: [usize; 2],
        words: &[u32],
        scales: &[u32],
        rows: Range<usize>,
        out: &mut [T],
    ) {
        self.fill(shape, words, scales, rows, T::room(out));
    }

    fn fill(
        self,
        shape: [usize; 2],
        words: &[u32],
        scales: &[u32],
        rows: Range<usize>,
        out: Room<'_>,
    ) {
        self.assert_lengths(shape, words, scales);
        assert!(
            rows.start <= rows.end && rows.end <= shape[0],
            "rows {rows:?} of {shape:?}"
        );
        assert_eq!(
            out.len(),
            rows.len() * shape[1],
            "values of rows {rows:?} of {shape:?}"
        );
        let part = Part {
            shape,
            words,
            scales,
            first_row: rows.start,
        };
        match out {
            Room::F32(out) => self.pieces(part, out),
            Room::F16(out) => self.pieces(part, out),
            Room::Bf16(out) => self.pieces(part, out),
        }
    }

    /// As many rows as `out` takes.
    fn pieces<T: Narrow>(self, part: Part<'_>, out: &mut [T]) {
        let format = self;
        if out.len() < 2 * PIECE {
            lanes::run(Unpack { format, part, out });
            return;
        }
        let i = part.shape[1];
        let piece = (PIECE / i).max(1);
        let pieces = out.par_chunks_mut(piece * i).enumerate();
        pieces.for_each(|(k, out)| {
            let first_row = part.first_row + k * piece;
            let part = Part { first_row, ..part };
            lanes::run(Unpack { format, part, out });
        });
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

/// A packed weight from `first_row` on.
#[derive(Clone, Copy)]
pub(crate) struct Part<'a> {
    /// Of the whole weight, as are its words and scales.
    pub(crate) shape: [usize; 2],
    pub(crate) words: &'a [u32],
    pub(crate) scales: &'a [u32],
    pub(crate) first_row: usize,
}

/// Gives back as many rows as `out` takes, on this thread.
struct Unpack<'a, T> {
    format: Format,
    part: Part<'a>,
    out: &'a mut [T],
}

impl<T: Narrow> Work for Unpack<'_, T> {
    type Output = ();

    #[inline(always)]
    fn on<L: Lanes>(self, lanes: L) {
        let Self { format, part, out } = self;
        match format {
            Format::Nf4(blocks) => blocks::unpack::<Nf4, L, T>(lanes, blocks, part, out),
            Format::Fp4(blocks) => blocks::unpack::<Fp4, L, T>(lanes, blocks, part, out),
            Format::Fp8(kind, tile) => fp8::unpack(kind, tile, part, out),
            Format::Affine(affine) => crate::affine::unpack(lanes, affine, part, out),
            Format::Int8 => int8::unpack(part, out),
            Format::Micro(micro) => micro::unpack(lanes, micro, part, out),
        }
    }
}

/// The words a quantization is asked for with: `nf4:block=64,nested`, `fp8:e4m3,scale=channel`,
/// `fp8:e4m3,scale=block` (128 x 128), `fp8:e5m2,scale=64x32`, `int8`. Several methods choose affine codes,
/// each under a word of its own: `affine:bits=4,group=64,bias=bf16` names what they have in common.
impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nf4(blocks) => write!(f, "nf4:{blocks}"),
            Self::Fp4(blocks) => write!(f, "fp4:{blocks}"),
            Self::Fp8(kind, tile) => write!(f, "fp8:{kind},scale={tile}"),
            Self::Affine(affine) => write!(f, "affine:{affine}"),
            Self::Int8 => f.write_str("int8"),
            Self::Micro(micro) => write!(f, "{micro}"),
        }
    }
}

impl fmt::Display for Blocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "block={}{}",
            self.block,
            if self.nested { ",nested" } else { "" }
        )
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

/// A packed weight in host memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// What the words mean.
    pub format: Format,
    /// `[o, i]` of the weight, not of the words.
    pub shape: [usize; 2],
    /// Codes: [`Format::words_len`] words.
    pub words: Vec<u32>,
    /// Scales: [`Format::scales_len`] words.
    pub scales: Vec<u32>,
}

impl Packed {
    /// A weight from its buffers.
    ///
    /// # Errors
    ///
    /// As [`Format::validate_shape`] for a format that cannot be or not in this shape,
    /// [`FormatError::Length`] when a buffer does not hold what shape and format imply, and
    /// [`FormatError::Order`].
    pub fn new(
        format: Format,
        shape: [usize; 2],
        words: Vec<u32>,
        scales: Vec<u32>,
    ) -> Result<Self, FormatError> {
        format.validate_shape(shape)?;
        let length = |buffer, found, needed| {
            let [rows, cols] = shape;
            let format = format.to_string();
            FormatError::Length {
                buffer,
                found,
                needed,
                format,
                rows,
                cols,
            }
        };
        let needed = format.words_len(shape);
        if words.len() != needed {
            return Err(length("words", words.len(), needed));
        }
        let needed = format.scales_len(shape);
        if scales.len() != needed {
            return Err(length("scales", scales.len(), needed));
        }
        if let Format::Affine(affine) = format {
            affine.check_list(shape, &scales)?;
        }
        Ok(Self {
            format,
            shape,
            words,
            scales,
        })
    }

    /// Bytes of words and scales together.
    pub const fn bytes(&self) -> usize {
        4 * (self.words.len() + self.scales.len())
    }

    /// Gives the weight back, `[o, i]`; see [`Format::dequantize_rows`].
    ///
    /// # Panics
    ///
    /// When the fields were changed so that the lengths no longer fit.
    pub fn dequantize(&self) -> Vec<f32> {
        let [o, i] = self.shape;
        let mut out = vec![0.0; o * i];
        self.format
            .dequantize_rows(self.shape, &self.words, &self.scales, 0..o, &mut out);
        out
    }
}
