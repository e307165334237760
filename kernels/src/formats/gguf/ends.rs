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
