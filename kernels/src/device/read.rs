//! A packed weight as kernels read it, in any format.
//!
//! Kernels read eight weights at a time, an *eight*: consecutive in a row, from a multiple of eight on, and
//! under one scale. Its codes lie in one word, or in two next to each other. Where rows are not whole
//! eights, or scales change inside them, weights are read one by one.

use cubecl::prelude::*;

use crate::arith::float::{cube::whole, pack_cube::widen};
use crate::format::{Affine, Along, Format, Tile};
use crate::formats::{affine, fp8, gguf, int8, micro, nested};

/// Weights that are read together.
pub(crate) const EIGHT: usize = 8;

/// Words of a wide read: sixteen bytes, the most that a unit of any device reads at once.
pub(crate) const WIDE: usize = 4;

/// The buffers of a packed weight, and the facts of its shape that are not known when a kernel is compiled.
#[derive(CubeType, CubeLaunch)]
pub(crate) struct StoredBuffers {
    /// Codes.
    pub(crate) words: Box<[u32]>,
    /// The same, as many as are whole wide reads.
    pub(crate) wide: Box<[Vector<u32, Const<WIDE>>]>,
    /// Everything else.
    pub(crate) scales: Box<[u32]>,
    /// The sixteen levels of a 4-bit format where no cube can keep them, nothing of use elsewhere.
    pub(crate) levels: Box<[f32]>,
    /// [`MAP`](nested::MAP) where scales are nested, nothing of use elsewhere.
    pub(crate) map: Box<[f32]>,
    /// Weights of a row.
    pub(crate) cols: u32,
    /// The word of `scales` at which the upper ones begin, where they are nested, or the list of columns, where
    /// there is one; the number of groups, where those are strided.
    pub(crate) upper: u32,
    /// 0; see [`rounded`](crate::arith::launch::rounded).
    pub(crate) zero: u32,
    /// The meaning of the words.
    #[cube(comptime)]
    pub(crate) format: Format,
}

/// The scale and the offset of some weights.
#[derive(CubeType, Clone, Copy)]
pub(crate) struct ScaleAndOffset {
    /// Multiplied by.
    pub(crate) by: f32,
    /// Added before or after, in the affine formats.
    pub(crate) offset: f32,
}

/// Codes of an eight: the first one in the lowest bits of `low`, and so on into `high`; of 16 bits, into `more` and
/// `most` too.
#[derive(CubeType, Clone, Copy)]
pub(crate) struct EightCodes {
    low: u32,
    high: u32,
    more: u32,
    most: u32,
}

/// Bits of a code as kernels take it.
const fn bits_of(format: Format) -> usize {
    match format {
        Format::Nf4(_) | Format::Fp4(_) => 4,
        Format::Fp8(..) | Format::Int8 | Format::Gguf(_) => 8,
        Format::Affine(Affine { bits, .. }) => bits,
        Format::Micro(micro) => micro.bits(),
        Format::Half(_) => 16,
    }
}

/// Whether a weight with rows of `cols` is whole eights.
pub(crate) const fn in_eights(format: Format, cols: usize) -> bool {
    let cut = match format {
        Format::Fp8(_, Tile::Block { cols: side, .. }) => {
            side < cols && !side.is_multiple_of(EIGHT)
        }
        Format::Affine(affine) => {
            !matches!(affine.along, Along::Flat) || !affine.group.is_multiple_of(EIGHT)
        }
        _ => false,
    };
    cols.is_multiple_of(EIGHT) && !cut
}

/// Eights that a wide read has the codes of, where their codes lie in words one after another; 0 elsewhere.
pub(crate) const fn eights_of_wide(format: Format) -> usize {
    match (format, bits_of(format)) {
        (Format::Gguf(_), _) => 0,
        (_, bits @ (4 | 8 | 16)) => 16 / bits,
        _ => 0,
    }
}

/// Whether `eights` of them, from a multiple of as many on, have one scale.
pub(crate) const fn share_scale(format: Format, eights: usize) -> bool {
    let run = eights * EIGHT;
    match format {
        Format::Nf4(blocks) | Format::Fp4(blocks) => blocks.block.is_multiple_of(run),
        Format::Fp8(_, Tile::Block { cols, .. }) => cols.is_multiple_of(run),
        Format::Affine(affine) => affine.group.is_multiple_of(run),
        Format::Micro(micro) => micro.group().is_multiple_of(run),
        Format::Fp8(..) | Format::Int8 | Format::Half(_) => true,
        Format::Gguf(_) => eights == 1,
    }
}

/// The codes of the eight `e` of a wide read.
#[cube]
pub(crate) fn codes_in(
    wide: Vector<u32, Const<WIDE>>,
    #[comptime] e: usize,
    #[comptime] format: Format,
) -> EightCodes {
    match comptime!(eights_of_wide(format)) {
        4 => narrow(wide.extract(e), 0u32),
        2 => narrow(
            wide.extract(comptime!(2 * e)),
            wide.extract(comptime!(2 * e + 1)),
        ),
        _ => EightCodes {
            low: wide.extract(0usize),
            high: wide.extract(1usize),
            more: wide.extract(2usize),
            most: wide.extract(3usize),
        },
    }
}

/// The codes of the eight `k`, counted over the whole weight.
#[cube]
pub(crate) fn codes(stored: &StoredBuffers, k: usize) -> EightCodes {
    let bits = comptime!(bits_of(stored.format));
    if let Format::Gguf(kind) = comptime!(stored.format) {
        let (low, high) = gguf::cube::codes(&stored.words, k, kind);
        narrow(low, high)
    } else if comptime!(bits == 16) {
        codes_in(stored.wide[k], 0usize, stored.format)
    } else if comptime!(bits == 4) {
        narrow(stored.words[k], 0u32)
    } else if comptime!(bits == 8) {
        narrow(stored.words[2 * k], stored.words[2 * k + 1])
    } else if comptime!(bits == 2) {
        narrow(stored.words[k / 2] >> (k as u32 % 2 * 16), 0u32)
    } else {
        // As many bytes as a code has bits.
        let (word, shift) = (k * bits / 4, (k * bits % 4 * 8) as u32);
        // The last eight of a weight needs no word after its own, and there is none.
        let next = (word + 1).min(stored.words.len() - 1);
        let (low, high) = (stored.words[word], stored.words[next]);
        // In two steps, because a shift by 32 is no shift on some devices.
        let over = (high << 1) << (31 - shift);
        narrow((low >> shift) | over, high >> shift)
    }
}

/// Codes of at most 8 bits.
#[cube]
fn narrow(low: u32, high: u32) -> EightCodes {
    EightCodes {
        low,
        high,
        more: 0u32,
        most: 0u32,
    }
}

/// The code `t` of an eight, as a number before it is scaled.
#[cube]
pub(crate) fn number(
    codes: &EightCodes,
    #[comptime] t: usize,
    levels: &[f32],
    #[comptime] format: Format,
) -> f32 {
    let bits = comptime!(bits_of(format));
    let (from, mask) = comptime!((t * bits, (1u32 << bits) - 1));
    let code = if comptime!(bits == 16) {
        let word = match comptime!(t / 2) {
            0 => codes.low,
            1 => codes.high,
            2 => codes.more,
            _ => codes.most,
        };
        (word >> comptime!(t as u32 % 2 * 16)) & mask
    } else if comptime!(from + bits <= 32) {
        (codes.low >> comptime!(from as u32)) & mask
    } else if comptime!(from >= 32) {
        (codes.high >> comptime!(from as u32 - 32)) & mask
    } else {
        let low = codes.low >> comptime!(from as u32);
        (low | (codes.high << comptime!(32 - from as u32))) & mask
    };
    number_of(code, levels, format)
}

/// A code as a number before it is scaled.
#[cube]
fn number_of(code: u32, levels: &[f32], #[comptime] format: Format) -> f32 {
    match format {
        Format::Nf4(_) => levels[code as usize],
        Format::Fp4(_) => levels[code as usize],
        Format::Fp8(kind, _) => fp8::cube::value(code, kind),
        Format::Affine(_) => whole(code),
        Format::Int8 => int8::cube::signed(code),
        Format::Micro(micro) => micro::cube::number(code, micro),
        Format::Half(half) => f32::reinterpret(widen(code, 0usize, half.dtype())),
        Format::Gguf(kind) => gguf::cube::number(code, levels, kind),
    }
}

/// The weight of a number that [`number`] gives.
#[cube]
pub(crate) fn scaled(stored: &StoredBuffers, number: f32, scale: &ScaleAndOffset) -> f32 {
    match comptime!(stored.format) {
        Format::Affine(affine) => {
            let form = comptime!(affine.form);
            affine::cube::weight(number, scale.by, scale.offset, stored.zero, form)
        }
        Format::Int8 => int8::cube::weight(number, scale.by, stored.zero),
        Format::Half(_) => number,
        Format::Gguf(kind) => gguf::cube::weight(number, scale.by, scale.offset, stored.zero, kind),
        _ => number * scale.by,
    }
}

/// The scale of the weight in row `r`, column `c`; it is `k` in the whole weight.
#[cube]
pub(crate) fn scale(stored: &StoredBuffers, r: usize, c: usize, k: usize) -> ScaleAndOffset {
    match comptime!(stored.format) {
        Format::Nf4(blocks) | Format::Fp4(blocks) => {
            let block = k / comptime!(blocks.block);
            if comptime!(blocks.nested) {
                let upper = stored.upper as usize;
                let by = nested::cube::get(&stored.scales, &stored.map, upper, block, stored.zero);
                ScaleAndOffset { by, offset: 0.0 }
            } else {
                only(stored, block)
            }
        }
        Format::Fp8(_, tile) => match tile {
            Tile::Tensor => only(stored, 0usize),
            Tile::Row => only(stored, r),
            Tile::Block { rows, cols } => {
                let across = (stored.cols as usize).div_ceil(cols);
                only(stored, r / rows * across + c / cols)
            }
        },
        Format::Affine(affine) => {
            let group = match comptime!(affine.along) {
                Along::Flat => k / comptime!(affine.group),
                Along::Strided => k % stored.upper as usize,
                Along::Ordered => {
                    let groups = (stored.cols as usize).div_ceil(comptime!(affine.group));
                    // A list that was not checked must not lead out of the buffer.
                    let column = stored.scales[stored.upper as usize + c] as usize;
                    r * groups + column.min(groups - 1)
                }
            };
            ScaleAndOffset {
                by: affine::cube::scale(&stored.scales, group, affine),
                offset: affine::cube::offset(&stored.scales, group, affine),
            }
        }
        Format::Int8 => only(stored, r),
        Format::Half(_) => ScaleAndOffset {
            by: 1.0,
            offset: 0.0,
        },
        Format::Gguf(kind) => {
            let (by, offset) = gguf::cube::scale(&stored.words, k / EIGHT, stored.zero, kind);
            ScaleAndOffset { by, offset }
        }
        Format::Micro(micro) => {
            let group = k / comptime!(micro.group());
            ScaleAndOffset {
                by: micro::cube::scale(&stored.scales, group, stored.zero, micro),
                offset: 0.0,
            }
        }
    }
}

/// The word `k` of the scales, where it is all there is to know.
#[cube]
fn only(stored: &StoredBuffers, k: usize) -> ScaleAndOffset {
    ScaleAndOffset {
        by: f32::reinterpret(stored.scales[k]),
        offset: 0.0,
    }
}

/// The weight in row `r`, column `c`, where rows are not whole eights: no micro format and no block of GGUF.
#[cube]
pub(crate) fn weight(stored: &StoredBuffers, levels: &[f32], r: usize, c: usize) -> f32 {
    let k = r * stored.cols as usize + c;
    let bits = comptime!(bits_of(stored.format));
    let mask = comptime!((1u32 << bits) - 1);
    let code = if comptime!(32 % bits == 0) {
        let codes = comptime!(32 / bits);
        let shift = (k % codes * bits) as u32;
        (stored.words[k / codes] >> shift) & mask
    } else {
        // Counted from the stream's first word: the bits of a whole weight may be more than a `u32` counts.
        let at = k % 32 * bits;
        let word = k / 32 * bits + at / 32;
        let shift = (at % 32) as u32;
        // A code that ends in its word needs no word after it, and there may be none.
        let next = (word + 1).min(stored.words.len() - 1);
        let over = (stored.words[next] << 1) << (31 - shift);
        ((stored.words[word] >> shift) | over) & mask
    };
    let number = number_of(code, levels, stored.format);
    scaled(stored, number, &scale(stored, r, c, k))
}
