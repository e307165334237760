//! A weight as bytes: what they stand for, and how they follow from its codes.

use crate::arith::lanes::vectorized;
use crate::arith::pack::{self, CODES4};
use crate::arith::whole::gcd;
use crate::format::{Along, Format, Micro, Offset};
use crate::formats::bits4::Scales;
use crate::formats::bits4::levels::{FP4, NF4};
use crate::formats::gguf;
use crate::formats::int8;
use crate::formats::micro::E2M1;

/// Columns of a word of four bytes, which one instruction multiplies and adds up.
pub(super) const FOUR: usize = 4;

/// The most columns of a block: how many have one scale.
pub(super) const BLOCK: usize = 128;

/// The fewest.
const BLOCK_MIN: usize = 16;

/// A weight whose codes are bytes, or become bytes by a table.
#[derive(Clone, Copy)]
pub(crate) struct ByteWeight<'a> {
    format: Format,
    pub(super) shape: [usize; 2],
    pub(super) words: &'a [u32],
    scales: &'a [u32],
    pub(super) codes: ByteCodes,
    /// Columns of a block.
    pub(super) block: usize,
    /// Blocks of a row, the last of which may be longer than the row.
    pub(super) blocks: usize,
    /// Columns of a group of the format, all of a row where it has one.
    pub(super) group: usize,
    /// The byte that stands for 0.
    pub(super) zero: u8,
}

/// How a byte follows from a code.
#[derive(Clone, Copy)]
pub(super) enum ByteCodes {
    /// 4 bits, by a table.
    Fours([u8; 16]),
    /// 8 bits, of which these are flipped.
    Eights(u8),
    /// A stream of so many bits.
    Stream(usize),
    /// Values, divided by their scales.
    Values,
}

/// The format and the shape in which [`ByteWeight::new`] finds whole numbers: columns of a group, the byte of 0, and how
/// bytes follow from codes.
fn codes_of(format: Format, [o, i]: [usize; 2]) -> Option<(usize, u8, ByteCodes)> {
    let levels = |levels: [f32; 16], by: f32, zero: u8| {
        let byte = |level: f32| (level * by).round() as i32 + i32::from(zero);
        ByteCodes::Fours(levels.map(|level| byte(level) as u8))
    };
    let found = match format {
        Format::Nf4(blocks) => (blocks.block, 128, levels(NF4.levels, LEVEL, 128)),
        Format::Fp4(blocks) => (blocks.block, 128, levels(FP4.levels, LEVEL, 128)),
        Format::Micro(micro @ (Micro::Mxfp4 | Micro::Nvfp4 { .. })) => {
            (micro.group(), 12, levels(E2M1, 2.0, 12))
        }
        Format::Int8 => (i, 128, ByteCodes::Eights(128)),
        Format::Affine(affine) if affine.along == Along::Flat => {
            // Rows together in a group have its scale each.
            let group = if affine.group.is_multiple_of(i) || affine.group == o * i {
                i
            } else {
                affine.group
            };
            let codes = match affine.bits {
                4 => ByteCodes::Fours(core::array::from_fn(|k| k as u8)),
                8 => ByteCodes::Eights(0),
                bits => ByteCodes::Stream(bits),
            };
            (group, 0, codes)
        }
        Format::Gguf(kind) => {
            let zero = gguf::least_whole(kind)?.unsigned_abs();
            (kind.part(), zero, ByteCodes::Values)
        }
        _ => return None,
    };
    Some(found)
}

/// The byte that the level 1 of NF4 and FP4 becomes.
const LEVEL: f32 = 127.0;

/// Columns of a block, if a weight of `format` and `shape` can be multiplied in whole numbers.
fn block_of(format: Format, shape: [usize; 2]) -> Option<usize> {
    let i = shape[1];
    let (group, ..) = codes_of(format, shape)?;
    if group == i {
        return Some(BLOCK);
    }
    let block = gcd(group, BLOCK);
    (i.is_multiple_of(group) && block >= BLOCK_MIN).then_some(block)
}

/// Whether a weight of `format` and `shape` can be multiplied in whole numbers.
pub(crate) fn fits(format: Format, shape: [usize; 2]) -> bool {
    shape[1] > 0 && block_of(format, shape).is_some()
}

impl<'a> ByteWeight<'a> {
    /// The weight, if [`fits`].
    pub(crate) fn new(
        format: Format,
        shape @ [_, i]: [usize; 2],
        words: &'a [u32],
        scales: &'a [u32],
    ) -> Option<Self> {
        if !fits(format, shape) {
            return None;
        }
        let (group, zero, codes) = codes_of(format, shape)?;
        let block = block_of(format, shape)?;
        Some(Self {
            format,
            shape,
            words,
            scales,
            codes,
            block,
            blocks: i.div_ceil(block),
            group,
            zero,
        })
    }

    /// Columns of whole blocks.
    pub(super) fn cols(&self) -> usize {
        self.blocks * self.block
    }

    /// The bytes of a row; those after the last column stay as they are.
    pub(super) fn row(
        &self,
        r: usize,
        values: &mut Vec<f32>,
        [scales, offsets]: [&[f32]; 2],
        out: &mut [u8],
    ) {
        let i = self.shape[1];
        let (first, out) = (r * i, &mut out[..i]);
        match self.codes {
            ByteCodes::Fours(table) if first.is_multiple_of(CODES4) => {
                let bytes = &pack::as_bytes(&self.words[first / CODES4..])[..i.div_ceil(2)];
                unpack_fours(bytes, &table, out);
            }
            ByteCodes::Fours(table) => {
                for (k, to) in (first..).zip(out) {
                    *to = table[pack::code4(self.words, k) as usize];
                }
            }
            ByteCodes::Eights(flip) => {
                let bytes = pack::as_bytes(self.words);
                for (to, code) in out.iter_mut().zip(&bytes[first..][..i]) {
                    *to = code ^ flip;
                }
            }
            ByteCodes::Stream(bits) => {
                values.resize(i, 0.0);
                pack::stream_codes(bits, self.words, first, values);
                vectorized(
                    #[inline(always)]
                    || {
                        for (to, code) in out.iter_mut().zip(&*values) {
                            // Through i32, because SSE2 converts nothing else.
                            *to = *code as i32 as u8;
                        }
                    },
                );
            }
            ByteCodes::Values => {
                let Self { format, shape, .. } = *self;
                if let Format::Gguf(kind) = format {
                    let bytes = kind.row_bytes(i);
                    let row = &pack::as_bytes(self.words)[r * bytes..][..bytes];
                    if vectorized(
                        #[inline(always)]
                        || gguf::cut(kind, row, out),
                    ) {
                        return;
                    }
                }
                values.resize(i, 0.0);
                format.dequantize_rows(shape, self.words, self.scales, r..r + 1, values);
                let zero = f32::from(self.zero);
                let groups = values
                    .chunks_exact(self.group)
                    .zip(out.chunks_exact_mut(self.group));
                vectorized(
                    #[inline(always)]
                    || {
                        let params = scales.iter().zip(offsets);
                        for ((values, out), (scale, offset)) in groups.zip(params) {
                            let inverse = if *scale == 0.0 { 0.0 } else { 1.0 / scale };
                            for (to, value) in out.iter_mut().zip(values) {
                                // At 1.5 * 2^23 an f32 steps by 1: the adder rounds, and the low bits are the number's.
                                let number = (value - offset) * inverse + zero + 12_582_912.0;
                                *to = number.to_bits() as u8;
                            }
                        }
                    },
                );
            }
        }
    }

    /// Groups of a row.
    pub(super) fn groups(&self) -> usize {
        self.shape[1] / self.group
    }

    /// The scales and offsets of the groups of `rows` rows from `first` on.
    pub(super) fn params(&self, first: usize, rows: usize, to: &mut Params) {
        let groups = self.groups();
        to.scales.resize(rows * groups, 0.0);
        to.offsets.resize(rows * groups, 0.0);
        let Params { scales, offsets } = to;
        vectorized(
            #[inline(always)]
            || self.params_here(first, groups, scales, offsets),
        );
    }

    #[inline(always)]
    fn params_here(&self, first: usize, groups: usize, scales: &mut [f32], offsets: &mut [f32]) {
        let ([o, i], at) = (self.shape, first * groups);
        match self.format {
            Format::Nf4(blocks) | Format::Fp4(blocks) => {
                Scales::new(blocks, o * i, self.scales).fill(at, scales);
                scales.iter_mut().for_each(|scale| *scale *= 1.0 / LEVEL);
            }
            Format::Micro(micro) => {
                micro.scales_from(self.scales, at, scales);
                scales.iter_mut().for_each(|scale| *scale *= 0.5);
            }
            Format::Affine(affine) => {
                if self.group == affine.group {
                    affine.params_from(self.scales, at, scales, offsets);
                } else {
                    // Several rows have one scale.
                    let to = scales.iter_mut().zip(&mut *offsets);
                    for (r, (scale, offset)) in (first..).zip(to) {
                        (*scale, *offset) = affine.params(self.scales, r * i / affine.group);
                    }
                }
                if affine.form == Offset::Zero {
                    for (offset, scale) in offsets.iter_mut().zip(&*scales) {
                        *offset *= -scale;
                    }
                }
            }
            Format::Gguf(kind) => gguf::params(kind, self.words, at, scales, offsets),
            _ => {
                for (scale, bits) in scales.iter_mut().zip(&self.scales[first..]) {
                    *scale = f32::from_bits(*bits) * int8::STEP;
                }
            }
        }
    }

    /// Whether values have an offset.
    pub(super) fn has_offsets(&self) -> bool {
        match self.format {
            Format::Affine(_) => true,
            Format::Gguf(kind) => gguf::has_minimum(kind),
            _ => false,
        }
    }
}

/// Scales and offsets of a row.
#[derive(Default)]
pub(super) struct Params {
    pub(super) scales: Vec<f32>,
    pub(super) offsets: Vec<f32>,
}

/// Bytes of nibbles, the low one of each first.
fn unpack_fours(bytes: &[u8], table: &[u8; 16], out: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    let done = super::shuffle::unpack_fours(bytes, table, out);
    #[cfg(not(target_arch = "x86_64"))]
    let done = 0;
    for (k, to) in out.iter_mut().enumerate().skip(done) {
        *to = table[usize::from(bytes[k / 2] >> (4 * (k % 2)) & 15)];
    }
}

/// Puts numbers `[rows, groups]` of rows side by side, once for each of the `together` blocks of a group.
pub(super) fn beside<const N: usize>(
    params: &[f32],
    groups: usize,
    together: usize,
    blocks: &mut [[f32; N]],
) {
    let rows = params.len() / groups;
    #[cfg(target_arch = "x86_64")]
    let done = match together {
        1 if rows == N => super::shuffle::beside(params, groups, blocks),
        _ => 0,
    };
    #[cfg(not(target_arch = "x86_64"))]
    let done = 0;
    for (g, blocks) in blocks.chunks_mut(together).enumerate().skip(done) {
        for (r, params) in params.chunks_exact(groups).enumerate() {
            blocks[0][r] = params[g];
        }
        let (first, rest) = blocks.split_at_mut(1);
        rest.fill(first[0]);
    }
}
