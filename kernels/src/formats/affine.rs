//! Affine: each weight is a whole number, times the scale of its group, and an offset.
//!
//! ```text
//! bias   weight[k] = code[k] * scale[g] + bias[g]
//! zero   weight[k] = (code[k] - zero[g]) * scale[g]          g: the group of k, see Along
//! ```
//!
//! Scales and offsets are widened to `f32` exactly, and each of the two steps rounds to `f32`. Codes are
//! one bit stream over the flattened weight. Where rows are whole groups and groups whole words, every row of
//! words is a row of MLX's file.
//!
//! [`packer()`] chooses codes as MLX 0.32 chooses them on the CPU, to the bit: the weight of the largest
//! magnitude in a group becomes the bias, the scale points from there to the other end of the range and is
//! then bent so that 0 is a whole number of steps away. Codes follow from scale and bias in `f32`; what is
//! stored is rounded to the source's type afterwards. Its Metal kernel differs in groups of one sign and
//! rounds halves away from zero.
//!
//! MLX gives `f32` back as we do. A half type it rounds after both steps, `round(round(code * scale) + bias)`,
//! where the product may overflow f16; here the steps are `f32`, and a half is rounded once.
//!
//! # Values after dequantizing
//!
//! | the group holds | it dequantizes to |
//! |---|---|
//! | a NaN beside other weights | the others as if they were alone; the NaN becomes code 0: the weight of the largest magnitude |
//! | NaN only, or an infinity | NaN everywhere |
//! | one weight over and over | that weight; 0 for a magnitude up to 5e-8 |
//! | a range under 1e-7 for each step | steps of about 1e-7: magnitudes up to 5e-8 become 0 |
//! | a range above `f32::MAX` | NaN everywhere |
//! | the largest magnitude `m`, in all other cases | `m` exactly |
//!
//! A zero comes back as nearly 0 wherever rounding the scale to be stored moved it: codes count from the
//! bias.
//!
//! Letters: `o` rows, `i` columns.

#[cfg(feature = "cube")]
pub(crate) mod cube;
#[cfg(feature = "cube")]
pub(crate) mod pack_cube;

use rayon::prelude::*;

use crate::arith::float::{DType, range_of_numbers};
use crate::arith::lanes::{Lanes, for_processors};
use crate::arith::number::Narrow;
use crate::arith::pack::{self, STREAM};
use crate::format::FormatError;
use crate::format::{Affine, Along, Format, Offset, PackedRows};
use crate::packer::{self, FeedOrder, Packer};

/// Scales and offsets widened at a time.
const SCRATCH: usize = 256;

/// Weights, about, that are unpacked before they are scaled.
const NEAR: usize = 4096;

/// Steps are not smaller than this, so that no group divides by zero.
const SMALLEST_STEP: f32 = 1e-7;

/// `code * scale + bias`, rounding twice.
#[inline(always)]
fn from_bias(code: f32, scale: f32, bias: f32) -> f32 {
    code * scale + bias
}

/// `(code - zero) * scale`, rounding twice.
#[inline(always)]
fn from_zero(code: f32, scale: f32, zero: f32) -> f32 {
    (code - zero) * scale
}

impl Affine {
    /// Scale and offset of the group `k` of the weight, out of its scales words.
    ///
    /// # Panics
    ///
    /// When `scales` ends before it.
    #[inline]
    pub fn params(self, scales: &[u32], k: usize) -> (f32, f32) {
        match self.params {
            DType::F32 => (
                f32::from_bits(scales[2 * k]),
                f32::from_bits(scales[2 * k + 1]),
            ),
            half => (
                half.from_bits(scales[k] & 0xffff),
                half.from_bits(scales[k] >> 16),
            ),
        }
    }

    /// The weight of a code under the scale and the offset of its group.
    #[inline(always)]
    pub(crate) fn weight(self, code: f32, scale: f32, offset: f32) -> f32 {
        match self.form {
            Offset::Bias => from_bias(code, scale, offset),
            Offset::Zero => from_zero(code, scale, offset),
        }
    }

    /// The weights of sixteen codes.
    #[inline(always)]
    pub(crate) fn weights<L: Lanes>(
        self,
        lanes: L,
        codes: L::Floats,
        scale: f32,
        offset: f32,
    ) -> L::Floats {
        let (scale, offset) = (lanes.splat(scale), lanes.splat(offset));
        match self.form {
            Offset::Bias => lanes.add(lanes.mul(codes, scale), offset),
            Offset::Zero => lanes.mul(lanes.sub(codes, offset), scale),
        }
    }

    /// The weights of the sixteen codes of 4 bits.
    #[inline(always)]
    pub(crate) fn table<L: Lanes>(self, lanes: L, scale: f32, offset: f32) -> L::Floats {
        self.weights(lanes, lanes.load(&CODES4), scale, offset)
    }

    /// Makes weights of their codes, in place, from row `first_row` on.
    #[inline(always)]
    fn scale(
        self,
        shape: [usize; 2],
        scales: &[u32],
        first_row: usize,
        values: &mut [f32],
        weight: impl Fn(f32, f32, f32) -> f32,
    ) {
        let [_, i] = shape;
        match self.along {
            Along::Flat => {
                let mut k = first_row * i;
                let mut rest = values;
                while !rest.is_empty() {
                    // Up to the end of the group.
                    let len = (self.group - k % self.group).min(rest.len());
                    let (values, after) = rest.split_at_mut(len);
                    let (scale, offset) = self.params(scales, k / self.group);
                    for value in values {
                        *value = weight(*value, scale, offset);
                    }
                    (k, rest) = (k + len, after);
                }
            }
            Along::Strided => {
                let groups = self.groups(shape);
                let (mut by, mut offsets) = ([0.0; SCRATCH], [0.0; SCRATCH]);
                let mut k = first_row * i;
                let mut rest = values;
                while !rest.is_empty() {
                    // Neighbours are in neighbouring groups, up to the last one.
                    let first = k % groups;
                    let len = (groups - first).min(rest.len()).min(SCRATCH);
                    let (values, after) = rest.split_at_mut(len);
                    self.params_from(scales, first, &mut by[..len], &mut offsets[..len]);
                    for ((value, by), offset) in values.iter_mut().zip(&by).zip(&offsets) {
                        *value = weight(*value, *by, *offset);
                    }
                    (k, rest) = (k + len, after);
                }
            }
            Along::Ordered => {
                let list = &scales[self.pairs_len(shape)..];
                let groups = i.div_ceil(self.group);
                let (mut by, mut offsets) = (vec![0.0; groups], vec![0.0; groups]);
                for (r, row) in (first_row..).zip(values.chunks_mut(i.max(1))) {
                    self.params_from(scales, r * groups, &mut by, &mut offsets);
                    for (value, group) in row.iter_mut().zip(list) {
                        let group = *group as usize;
                        *value = weight(*value, by[group], offsets[group]);
                    }
                }
            }
        }
    }

    /// Scales and offsets of the groups from `first` on.
    #[inline(always)]
    pub(crate) fn params_from(
        self,
        scales: &[u32],
        first: usize,
        by: &mut [f32],
        offsets: &mut [f32],
    ) {
        let words = &scales[first * self.param_words()..];
        let to = by.iter_mut().zip(offsets);
        match self.params {
            DType::F32 => {
                for ((by, offset), [scale, bits]) in to.zip(words.as_chunks::<2>().0) {
                    (*by, *offset) = (f32::from_bits(*scale), f32::from_bits(*bits));
                }
            }
            half => {
                for ((by, offset), pair) in to.zip(words) {
                    (*by, *offset) = (half.from_bits(pair & 0xffff), half.from_bits(pair >> 16));
                }
            }
        }
    }

    /// Stores scale and offset of one group, rounding them.
    #[inline(always)]
    pub(crate) fn store(self, scale: f32, offset: f32, words: &mut [u32]) {
        let (scale, offset) = (self.params.to_bits(scale), self.params.to_bits(offset));
        match words {
            [word] => *word = offset << 16 | scale,
            words => words.copy_from_slice(&[scale, offset]),
        }
    }
}

/// Dequantizes rows until `out` is full.
#[inline(always)]
pub(crate) fn unpack<L: Lanes, T: Narrow>(
    lanes: L,
    affine: Affine,
    part: PackedRows<'_>,
    out: &mut [T],
) {
    if let Err(error) = affine.check_shape(part.shape) {
        panic!("{error}");
    }
    match affine.bits {
        1 => unpack_bits::<L, T, 1>(lanes, affine, part, out),
        2 => unpack_bits::<L, T, 2>(lanes, affine, part, out),
        3 => unpack_bits::<L, T, 3>(lanes, affine, part, out),
        4 => unpack_bits::<L, T, 4>(lanes, affine, part, out),
        5 => unpack_bits::<L, T, 5>(lanes, affine, part, out),
        6 => unpack_bits::<L, T, 6>(lanes, affine, part, out),
        8 => unpack_bits::<L, T, 8>(lanes, affine, part, out),
        bits => panic!("affine codes of {bits} bits"),
    }
}

#[inline(always)]
fn unpack_bits<L: Lanes, T: Narrow, const BITS: usize>(
    lanes: L,
    affine: Affine,
    part: PackedRows<'_>,
    out: &mut [T],
) {
    let PackedRows {
        shape,
        words,
        scales,
        first_row,
    } = part;
    let i = shape[1];
    let first = first_row * i;
    let whole = affine.along == Along::Flat
        && affine.group.is_multiple_of(STREAM)
        && first.is_multiple_of(affine.group)
        && out.len().is_multiple_of(affine.group);
    if whole {
        for (k, out) in (first / affine.group..).zip(out.chunks_exact_mut(affine.group)) {
            let params = affine.params(scales, k);
            unpack_group::<L, T, BITS>(lanes, affine, params, words, k * affine.group, out);
        }
        return;
    }
    // Codes, as floats, stay near until they are scaled.
    let form = Offset::Bias;
    let codes = Affine { form, ..affine };
    let together = (NEAR / i.max(1)).max(1) * i.max(1);
    let mut scratch = vec![0.0; together.min(out.len())];
    let firsts = (first..).step_by(together);
    for (first, out) in firsts.zip(out.chunks_mut(together)) {
        T::through(lanes, out, &mut scratch, |values| {
            unpack_group::<L, f32, BITS>(lanes, codes, (1.0, 0.0), words, first, values);
            let r = first / i;
            match affine.form {
                Offset::Bias => affine.scale(shape, scales, r, values, from_bias),
                Offset::Zero => affine.scale(shape, scales, r, values, from_zero),
            }
        });
    }
}

/// Weights of the codes from `first` on, all under one scale and offset.
#[inline(always)]
fn unpack_group<L: Lanes, T: Narrow, const BITS: usize>(
    lanes: L,
    affine: Affine,
    (scale, offset): (f32, f32),
    words: &[u32],
    first: usize,
    out: &mut [T],
) {
    match (BITS, affine.form) {
        (4, _) => {
            let table = affine.table(lanes, scale, offset);
            pack::look_up4(lanes, words, first, table, out);
        }
        (8, Offset::Bias) => pack::unpack8(words, first, out, |code| {
            from_bias(code.into(), scale, offset)
        }),
        (8, Offset::Zero) => pack::unpack8(words, first, out, |code| {
            from_zero(code.into(), scale, offset)
        }),
        _ => pack::unpack_codes::<L, T, BITS>(
            lanes,
            words,
            first,
            out,
            #[inline(always)]
            |codes| affine.weights(lanes, codes, scale, offset),
        ),
    }
}

/// The 4-bit codes as floats.
const CODES4: [f32; 16] = [
    0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0,
];

/// The format that MLX packs a weight of `shape` `[o, i]`, stored as `source`, into.
///
/// # Errors
///
/// As [`check_mlx`], and [`FormatError::Columns`] where `i` is not whole groups.
pub fn mlx_format(
    shape: [usize; 2],
    source: DType,
    bits: usize,
    group: usize,
) -> Result<Affine, FormatError> {
    check_mlx(bits, group)?;
    let cols = shape[1];
    if !cols.is_multiple_of(group) {
        return Err(FormatError::Columns { cols, group });
    }
    Affine::new(bits, group, Along::Flat, Offset::Bias, source)
}

/// Refuses bits and groups that MLX does not have.
///
/// # Errors
///
/// [`FormatError::Bits`] unless `bits` is 2, 3, 4, 5, 6 or 8, [`FormatError::Group`] unless `group` is 32, 64
/// or 128.
pub const fn check_mlx(bits: usize, group: usize) -> Result<(), FormatError> {
    if !matches!(bits, 2..=6 | 8) {
        return Err(FormatError::Bits {
            found: bits,
            least: 2,
        });
    }
    if !matches!(group, 32 | 64 | 128) {
        return Err(FormatError::Group { found: group });
    }
    Ok(())
}

/// Packs a weight of `shape` `[o, i]` as MLX does: with a bias, stored as `source`. One pass.
///
/// # Errors
///
/// As [`mlx_format`], and [`FormatError::Size`].
pub fn packer(
    shape: [usize; 2],
    source: DType,
    bits: usize,
    group: usize,
) -> Result<Box<dyn Packer>, FormatError> {
    let affine = mlx_format(shape, source, bits, group)?;
    let format = Format::Affine(affine);
    packer::check_size(shape)?;
    Ok(Box::new(MlxPacker {
        source,
        affine,
        // Rows are whole groups and whole words.
        order: FeedOrder::new(format, shape, source, 1, 1),
        scales: vec![0; format.scales_len(shape)],
    }))
}

struct MlxPacker {
    source: DType,
    affine: Affine,
    order: FeedOrder,
    /// `[o, i / group, words of a pair]`.
    scales: Vec<u32>,
}

/// Weights of a group at most.
const GROUP_MAX: usize = 128;

/// Weights of a job: whole groups of any size.
const JOB: usize = 4096;

impl Packer for MlxPacker {
    packer::in_order!();

    fn feed(&mut self, pass: usize, first_row: usize, tile: &[u8], words: &mut [u32]) {
        self.order.accept(pass, first_row, tile, words);
        let (source, affine) = (self.source, self.affine);
        let Affine { bits, group, .. } = affine;
        let first = first_row * self.order.shape[1];
        let scales = &mut self.scales[first / group * affine.param_words()..];
        tile.par_chunks(JOB * source.size())
            .zip(words.par_chunks_mut(JOB / STREAM * bits))
            .zip(scales.par_chunks_mut(JOB / group * affine.param_words()))
            .for_each(|((bytes, words), scales)| {
                pack_groups(affine, source, bytes, words, scales);
            });
    }

    fn finish(self: Box<Self>) -> Vec<u32> {
        self.order.finish();
        self.scales
    }
}

for_processors! {
    /// Chooses scales, biases and codes of the groups of a job.
    fn pack_groups(
        affine: Affine,
        source: DType,
        bytes: &[u8],
        words: &mut [u32],
        scales: &mut [u32],
    ) {
        match affine.bits {
            2 => pack_as::<2>(affine, source, bytes, words, scales),
            3 => pack_as::<3>(affine, source, bytes, words, scales),
            4 => pack_as::<4>(affine, source, bytes, words, scales),
            5 => pack_as::<5>(affine, source, bytes, words, scales),
            6 => pack_as::<6>(affine, source, bytes, words, scales),
            _ => pack_as::<8>(affine, source, bytes, words, scales),
        }
    }
}

#[inline(always)]
fn pack_as<const BITS: usize>(
    affine: Affine,
    source: DType,
    bytes: &[u8],
    words: &mut [u32],
    scales: &mut [u32],
) {
    let largest = ((1 << BITS) - 1) as f32;
    let group = affine.group;
    let mut values = [0.0; JOB];
    let values = &mut values[..bytes.len() / source.size()];
    source.widen_here(bytes, values);
    let mut codes = [0; GROUP_MAX];
    let groups = values
        .chunks_exact(group)
        .zip(bytes.chunks_exact(group * source.size()));
    let words = words.chunks_exact_mut(group / STREAM * BITS);
    let scales = scales.chunks_exact_mut(affine.param_words());
    for (((values, bytes), words), pair) in groups.zip(words).zip(scales) {
        let (min, max, _) = range_of_numbers(source, bytes);
        let (scale, bias) = scaling(min, max, largest);
        affine.store(scale, bias, pair);
        // Codes first, then words: of one loop for both, compilers make slow vectors of 2 bits.
        let codes = &mut codes[..group];
        for (to, value) in codes.iter_mut().zip(values) {
            *to = code(*value, scale, bias, largest);
        }
        for (codes, words) in codes.as_chunks().0.iter().zip(words.as_chunks_mut().0) {
            *words = pack::pack_bytes::<BITS>(codes);
        }
    }
}

/// Scale and bias of a group whose largest code is `largest`, not yet rounded to be stored.
#[inline(always)]
fn scaling(min: f32, max: f32, largest: f32) -> (f32, f32) {
    let down = min.abs() > max.abs();
    let step = ((max - min) / largest).max(SMALLEST_STEP);
    let (scale, edge) = if down { (step, min) } else { (-step, max) };

    // The code of 0, which is then bent to be whole.
    let zero = (edge / scale).round_ties_even();
    // NaN is not 0 either.
    if zero == 0.0 {
        (scale, 0.0)
    } else {
        let scale = edge / zero;
        // Which NaN a quotient is differs between processors.
        (if scale.is_nan() { f32::NAN } else { scale }, edge)
    }
}

/// The code of one weight: the nearest, a tie to the even one, 0 for NaN.
#[inline(always)]
fn code(value: f32, scale: f32, bias: f32, largest: f32) -> u8 {
    let code = (value - bias) / scale;
    // Bounds are whole, so clamping before rounding gives the same code; NaN compares false.
    let code = if code > 0.0 { code } else { 0.0 };
    let code = if code < largest { code } else { largest };
    // At 2^23 an f32 steps by 1: the adder rounds, and the code is the low bits.
    const WHOLE: f32 = 8_388_608.0;
    (code + WHOLE).to_bits() as u8
}
