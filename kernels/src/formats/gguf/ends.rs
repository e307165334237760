//! The least and the greatest value that a scale of a block can give.

use super::{floats, k, lists, parts::half};
use crate::arith::pack::{self, CODES8};
use crate::format::Gguf;

/// The ends of the values that the scale of row `r`, column `c` can give.
pub(crate) fn range(
    kind: Gguf,
    [_, cols]: [usize; 2],
    words: &[u32],
    [r, c]: [usize; 2],
) -> [f32; 2] {
    let at = r * kind.row_bytes(cols) + c / kind.block() * kind.bytes();
    let words = &words[at / CODES8..(at + kind.bytes()).div_ceil(CODES8)];
    let part = c % kind.block() / kind.part();
    let block = pack::as_bytes(words);
    let [scale, offset] = scale_and_offset(kind, &block[at % CODES8..], part);
    let [first, last] = numbers(kind).map(|number| scale * number + offset);
    [first.min(last), first.max(last)]
}

/// The least and the greatest number that the scale of a block multiplies.
pub(crate) const fn numbers(kind: Gguf) -> [f32; 2] {
    match kind {
        Gguf::Q4_0 => [-8.0, 7.0],
        Gguf::Q5_0 => [-16.0, 15.0],
        Gguf::Q8_0 => [-128.0, 127.0],
        Gguf::Q4_1 | Gguf::Q4K => [0.0, 15.0],
        Gguf::Q5_1 | Gguf::Q5K => [0.0, 31.0],
        Gguf::Q2K => [0.0, 3.0],
        Gguf::Q3K => [-4.0, 3.0],
        Gguf::Q6K => [-32.0, 31.0],
        Gguf::Iq4Nl | Gguf::Iq4Xs => [-127.0, 113.0],
        Gguf::Iq2Xxs | Gguf::Iq2Xs | Gguf::Iq2S => [-43.0, 43.0],
        Gguf::Iq3Xxs => [-62.0, 62.0],
        Gguf::Iq3S => [-15.0, 15.0],
        Gguf::Iq1S | Gguf::Iq1M => [-1.125, 1.125],
        Gguf::Q1_0 | Gguf::Tq1_0 => [-1.0, 1.0],
        Gguf::Q2_0 | Gguf::Tq2_0 => [-1.0, 2.0],
        Gguf::Mxfp4 | Gguf::Nvfp4 => [-12.0, 12.0],
    }
}

/// The scale of part `p` of a block, and what is added.
fn scale_and_offset(kind: Gguf, block: &[u8], p: usize) -> [f32; 2] {
    let d = |at| half(block, at);
    // Lists go by eights.
    let eight = p * kind.part() / 8;
    let scale = match kind {
        Gguf::Q4_1 | Gguf::Q5_1 => return [d(0), d(2)],
        Gguf::Q2K => {
            let [scale, min] = k::scale_and_min4(block[p], [d(80), d(82)]);
            return [scale, -min];
        }
        Gguf::Q4K | Gguf::Q5K => {
            let [scale, min] = k::scale_and_min6(&block[4..16], p, [d(0), d(2)]);
            return [scale, -min];
        }
        Gguf::Q4_0 | Gguf::Q5_0 | Gguf::Q8_0 | Gguf::Iq4Nl | Gguf::Q1_0 | Gguf::Q2_0 => d(0),
        Gguf::Q3K => d(108) * k::scale6(&block[96..108], p),
        Gguf::Q6K => d(208) * f32::from(block[192 + p] as i8),
        Gguf::Iq4Xs => d(0) * k::scale_xs(block, p),
        Gguf::Iq2Xxs => lists::scale2_xxs(block, eight),
        Gguf::Iq2Xs => lists::scale2(block, &block[66..], eight),
        Gguf::Iq2S => lists::scale2(block, &block[74..], eight),
        Gguf::Iq3Xxs => lists::scale3_xxs(block, eight),
        Gguf::Iq3S => lists::scale3(block, eight),
        Gguf::Iq1S => lists::scale1(block, eight),
        Gguf::Iq1M => lists::scale1_m(block, eight),
        Gguf::Tq1_0 => d(52),
        Gguf::Tq2_0 => d(64),
        Gguf::Mxfp4 => floats::power(block[0]),
        Gguf::Nvfp4 => floats::e4m3_half(block[p]),
    };
    [scale, 0.0]
}

/// The least number, where all numbers are whole and fit a byte with it as 0.
pub(crate) const fn least_whole(kind: Gguf) -> Option<i8> {
    match kind {
        Gguf::Iq1S | Gguf::Iq1M => None,
        _ => Some(numbers(kind)[0] as i8),
    }
}

/// The numbers of a row's blocks as bytes, the least as 0, where that takes no more than cutting nibbles; gives whether it does.
#[inline(always)]
pub(crate) fn cut(kind: Gguf, row: &[u8], out: &mut [u8]) -> bool {
    let at = match kind {
        Gguf::Q4_0 => 2,
        Gguf::Q4_1 => 4,
        Gguf::Q4K => 16,
        Gguf::Q8_0 => {
            for (block, out) in row
                .as_chunks::<34>()
                .0
                .iter()
                .zip(out.as_chunks_mut::<32>().0)
            {
                for (to, byte) in out.iter_mut().zip(&block[2..]) {
                    *to = byte ^ 128;
                }
            }
            return true;
        }
        _ => return false,
    };
    // In 32 weights, or 64 of the larger block, byte `j` has the codes `j` and `j` after the middle.
    let half = if kind == Gguf::Q4K { 32 } else { 16 };
    for (block, out) in row
        .chunks_exact(kind.bytes())
        .zip(out.chunks_exact_mut(kind.block()))
    {
        for (bytes, out) in block[at..]
            .chunks_exact(half)
            .zip(out.chunks_exact_mut(2 * half))
        {
            let (first, second) = out.split_at_mut(half);
            for ((first, second), byte) in first.iter_mut().zip(second).zip(bytes) {
                (*first, *second) = (byte & 15, byte >> 4);
            }
        }
    }
    true
}

/// Whether a minimum is added to the numbers of a block.
pub(crate) const fn has_minimum(kind: Gguf) -> bool {
    matches!(
        kind,
        Gguf::Q4_1 | Gguf::Q5_1 | Gguf::Q2K | Gguf::Q4K | Gguf::Q5K
    )
}

/// The scales of the parts from `first` on, and what is added to their numbers.
pub(crate) fn params(
    kind: Gguf,
    words: &[u32],
    first: usize,
    scales: &mut [f32],
    offsets: &mut [f32],
) {
    let parts = kind.block() / kind.part();
    let bytes = pack::as_bytes(words);
    for (k, (scale, offset)) in (first..).zip(scales.iter_mut().zip(offsets)) {
        let block = &bytes[k / parts * kind.bytes()..][..kind.bytes()];
        [*scale, *offset] = scale_and_offset(kind, block, k % parts);
    }
}
