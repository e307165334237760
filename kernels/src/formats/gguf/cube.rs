//! The device half of the blocks that packers choose.
//!
//! Eight weights are two words of bytes, one a code. Blocks begin at even bytes, and kernels count in halves of a word: bytes
//! of a weight may be more than a `u32` counts.

use cubecl::prelude::*;

use crate::arith::float::{DType, cube::whole, pack_cube::widen};
use crate::arith::launch::rounded;
use crate::format::Gguf;
use crate::formats::int8;

/// The half, of the block that the eight `k` of a weight is in, at which that begins, and the number of the eight in it.
#[cube]
fn place(k: usize, #[comptime] kind: Gguf) -> (usize, usize) {
    let eights = comptime!(kind.block() / 8);
    (k / eights * comptime!(kind.bytes() / 2), k % eights)
}

/// The codes of the eight `k` of a weight, a byte each.
#[cube]
pub(crate) fn codes(words: &[u32], k: usize, #[comptime] kind: Gguf) -> (u32, u32) {
    let (at, e) = place(k, kind);
    match kind {
        Gguf::Q4_0 => nibbles(words, at + 1, e),
        Gguf::Iq4Nl => nibbles(words, at + 1, e),
        Gguf::Q4_1 => nibbles(words, at + 2, e),
        Gguf::Q5_0 => fifths(words, at + 1, e),
        Gguf::Q5_1 => fifths(words, at + 2, e),
        Gguf::Q8_0 => two(words, at + 1 + e * 4),
        Gguf::Q2K => twos(words, at + 8, e),
        Gguf::Q3K => {
            let (low, high) = twos(words, at + 16, e);
            let (low_bits, high_bits) = some(words, at + e % 4 * 4, e / 4, 1u32);
            (low | (low_bits << 2), high | (high_bits << 2))
        }
        Gguf::Q4K => some(words, fours(at + 8, e), e / 4 % 2 * 4, 15u32),
        Gguf::Q5K => {
            let (low, high) = some(words, fours(at + 24, e), e / 4 % 2 * 4, 15u32);
            let (low_bits, high_bits) = some(words, at + 8 + e % 4 * 4, e / 4, 1u32);
            (low | (low_bits << 4), high | (high_bits << 4))
        }
        Gguf::Q6K => {
            let lower = at + e / 16 * 32 + e / 4 % 2 * 16 + e % 4 * 4;
            let (low, high) = some(words, lower, e / 8 % 2 * 4, 15u32);
            let (low_bits, high_bits) = twos(words, at + 64, e);
            (low | (low_bits << 4), high | (high_bits << 4))
        }
        _ => (0u32.runtime(), 0u32.runtime()),
    }
}

/// A code as a number before it is scaled.
#[cube]
pub(crate) fn number(code: u32, levels: &[f32], #[comptime] kind: Gguf) -> f32 {
    match kind {
        Gguf::Iq4Nl => levels[code as usize],
        Gguf::Q8_0 => int8::cube::signed(code),
        Gguf::Q4_0 => whole(code) - 8.0,
        Gguf::Q5_0 => whole(code) - 16.0,
        Gguf::Q3K => whole(code) - 4.0,
        Gguf::Q6K => whole(code) - 32.0,
        _ => whole(code),
    }
}

/// The scale of the eight `k` of a weight, and what is added; `zero` is 0, see [`rounded`].
#[cube]
pub(crate) fn scale(words: &[u32], k: usize, zero: u32, #[comptime] kind: Gguf) -> (f32, f32) {
    let (at, e) = place(k, kind);
    match kind {
        Gguf::Q4_1 => (half(words, at), half(words, at + 1)),
        Gguf::Q5_1 => (half(words, at), half(words, at + 1)),
        Gguf::Q2K => {
            let packed = byte(words, at, e / 2);
            let by = half(words, at + 40) * whole(packed & 15);
            let min = half(words, at + 41) * whole(packed >> 4);
            (by, -rounded(min, zero))
        }
        Gguf::Q3K => {
            let p = e / 2;
            let low = (byte(words, at + 48, p % 8) >> ((p / 8 * 4) as u32)) & 15;
            let upper = (byte(words, at + 48, 8 + p % 4) >> ((p / 4 * 2) as u32)) & 3;
            let by = half(words, at + 54) * (whole(low | (upper << 4)) - 32.0);
            (by, 0.0f32.runtime())
        }
        Gguf::Q4K => sixes(words, at, e / 4, zero),
        Gguf::Q5K => sixes(words, at, e / 4, zero),
        Gguf::Q6K => {
            let signed = int8::cube::signed(byte(words, at + 96, e / 2));
            (half(words, at + 104) * signed, 0.0f32.runtime())
        }
        _ => (half(words, at), 0.0f32.runtime()),
    }
}

/// The weight of a number; `zero` is 0, see [`rounded`].
#[cube]
pub(crate) fn weight(number: f32, by: f32, offset: f32, zero: u32, #[comptime] kind: Gguf) -> f32 {
    if comptime!(has_offset(kind)) {
        rounded(number * by, zero) + offset
    } else {
        number * by
    }
}

/// Whether something is added.
const fn has_offset(kind: Gguf) -> bool {
    use Gguf::{Q2K, Q4_1, Q4K, Q5_1, Q5K};
    matches!(kind, Q4_1 | Q5_1 | Q2K | Q4K | Q5K)
}

/// Scale and minimum of part `p` of `q4_k` and `q5_k`, six bits each: see `scale_and_min` of the host half.
#[cube]
fn sixes(words: &[u32], at: usize, p: usize, zero: u32) -> (f32, f32) {
    let first = byte(words, at + 2, p % 4);
    let second = byte(words, at + 2, p % 4 + 4);
    let third = byte(words, at + 2, p % 4 + 8);
    let late = p >= 4;
    let s = select(late, (third & 15) | ((first >> 6) << 4), first & 63);
    let t = select(late, (third >> 4) | ((second >> 6) << 4), second & 63);
    let min = half(words, at + 1) * whole(t);
    (half(words, at) * whole(s), -rounded(min, zero))
}

/// Where the nibbles of the eight `e` of `q4_k` and `q5_k` begin, 32 bytes for two parts.
#[cube]
fn fours(at: usize, e: usize) -> usize {
    at + e / 8 * 16 + e % 4 * 4
}

/// Nibbles of the eight `e` of 32 codes, of which byte `j` has `j` and `j + 16`.
#[cube]
fn nibbles(words: &[u32], at: usize, e: usize) -> (u32, u32) {
    some(words, at + e % 2 * 4, e / 2 * 4, 15u32)
}

/// The same with fifth bits, which are the word before.
#[cube]
fn fifths(words: &[u32], at: usize, e: usize) -> (u32, u32) {
    let (low, high) = nibbles(words, at + 2, e);
    let (upper, _) = two(words, at);
    let bits = upper >> ((e * 8) as u32);
    (
        low | (spread(bits & 15) << 4),
        high | (spread((bits >> 4) & 15) << 4),
    )
}

/// Four bits, one a byte.
#[cube]
fn spread(bits: u32) -> u32 {
    (bits * 0x0020_4081) & 0x0101_0101
}

/// Two bits each of the eight `e`, 32 bytes for 128 codes.
#[cube]
fn twos(words: &[u32], at: usize, e: usize) -> (u32, u32) {
    some(words, at + e / 16 * 16 + e % 4 * 4, e / 4 % 4 * 2, 3u32)
}

/// The bits `mask << shift` of each of eight bytes.
#[cube]
fn some(words: &[u32], at: usize, shift: usize, mask: u32) -> (u32, u32) {
    let (low, high) = two(words, at);
    let (shift, mask) = (shift as u32, mask * 0x0101_0101);
    ((low >> shift) & mask, (high >> shift) & mask)
}

/// Two words from the half `at` on.
#[cube]
fn two(words: &[u32], at: usize) -> (u32, u32) {
    let (word, shift) = (at / 2, (at % 2 * 16) as u32);
    let last = words.len() - 1;
    let (low, middle) = (words[word], words[(word + 1).min(last)]);
    let high = words[(word + 2).min(last)];
    // In two steps, because a shift by 32 is no shift on some devices.
    let over = 31 - shift;
    (
        (low >> shift) | ((middle << 1) << over),
        (middle >> shift) | ((high << 1) << over),
    )
}

/// The byte `p` from the half `at` on.
#[cube]
fn byte(words: &[u32], at: usize, p: usize) -> u32 {
    (short(words, at + p / 2) >> ((p % 2 * 8) as u32)) & 0xff
}

/// The half `at` as a number.
#[cube]
fn short(words: &[u32], at: usize) -> u32 {
    (words[at / 2] >> ((at % 2 * 16) as u32)) & 0xffff
}

/// The half `at` as an f16, widened.
#[cube]
fn half(words: &[u32], at: usize) -> f32 {
    let of = comptime!(DType::F16);
    f32::reinterpret(widen(short(words, at), 0usize, of))
}
