//! Blocks of 256 whose parts, 16 or 32 weights each, have scales of their own.

use super::parts::{LEVELS, half, nibble, short};

/// Weights of a block.
pub(super) const BLOCK: usize = 256;

/// Scale and minimum of a part of `q2_k`.
#[inline(always)]
pub(super) fn scale_and_min4(packed: u8, [d, m]: [f32; 2]) -> [f32; 2] {
    [d * f32::from(packed & 15), m * f32::from(packed >> 4)]
}

/// Scale and minimum of part `k` of `q4_k` and `q5_k`.
#[inline(always)]
pub(super) fn scale_and_min6(packed: &[u8], k: usize, [d, m]: [f32; 2]) -> [f32; 2] {
    let [scale, min] = scale_and_min(packed, k);
    [d * f32::from(scale), m * f32::from(min)]
}

/// `s` and `t` of part `k` of `q4_k` and `q5_k`: 6 bits each in 12 bytes. Those of the last four parts lie in nibbles, with
/// their upper bits above the first eight numbers.
#[inline(always)]
const fn scale_and_min(packed: &[u8], k: usize) -> [u8; 2] {
    let [s, t, late] = [packed[k % 4], packed[k % 4 + 4], packed[k % 4 + 8]];
    if k < 4 {
        [s & 63, t & 63]
    } else {
        [late & 15 | s >> 6 << 4, late >> 4 | t >> 6 << 4]
    }
}

/// The scale of part `k` of `q3_k` without `d`, 6 bits: a nibble, and two bits of the last four bytes.
#[inline(always)]
pub(super) fn scale6(packed: &[u8], k: usize) -> f32 {
    let low = packed[k % 8] >> (4 * (k / 8)) & 15;
    f32::from(low | (packed[8 + k % 4] >> (2 * (k / 4)) & 3) << 4) - 32.0
}

/// The scale of part `k` of `iq4_xs` without `d`, 6 bits: a nibble, and two bits of a word.
#[inline(always)]
pub(super) fn scale_xs(block: &[u8], k: usize) -> f32 {
    let upper = (short(block, 2) >> (2 * k) & 3) << 4;
    f32::from(nibble(&block[4..8], k) | upper as u8) - 32.0
}

/// Where the two bits of 16 weights lie in `q2_k` and `q3_k`, for part `k`: the first byte, and the shift. Each 32 bytes hold
/// 128 weights, 32 at a shift.
#[inline(always)]
pub(super) const fn twos(k: usize) -> (usize, usize) {
    (k / 8 * 32 + k % 2 * 16, k % 8 / 2 * 2)
}

#[inline(always)]
pub(super) fn q2(block: &[u8; 84], out: &mut [f32; BLOCK]) {
    let (d, m) = (half(block, 80), half(block, 82));
    for (k, part) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let [scale, min] = scale_and_min4(block[k], [d, m]);
        let (at, shift) = twos(k);
        for (to, byte) in part.iter_mut().zip(&block[16 + at..]) {
            *to = scale * f32::from(byte >> shift & 3) - min;
        }
    }
}

#[inline(always)]
pub(super) fn q3(block: &[u8; 110], out: &mut [f32; BLOCK]) {
    let d = half(block, 108);
    for (k, part) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * scale6(&block[96..108], k);
        let (at, shift) = twos(k);
        let upper = &block[k % 2 * 16..][..16];
        for ((to, byte), upper) in part.iter_mut().zip(&block[32 + at..]).zip(upper) {
            let code = byte >> shift & 3 | (upper >> (k / 2) & 1) << 2;
            *to = scale * (f32::from(code) - 4.0);
        }
    }
}

#[inline(always)]
pub(super) fn q4(block: &[u8; 144], out: &mut [f32; BLOCK]) {
    let (d, m) = (half(block, 0), half(block, 2));
    for (k, part) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let [scale, min] = scale_and_min6(&block[4..16], k, [d, m]);
        let bytes = &block[16 + k / 2 * 32..][..32];
        for (to, byte) in part.iter_mut().zip(bytes) {
            *to = scale * f32::from(byte >> (4 * (k % 2)) & 15) - min;
        }
    }
}

#[inline(always)]
pub(super) fn q5(block: &[u8; 176], out: &mut [f32; BLOCK]) {
    let (d, m) = (half(block, 0), half(block, 2));
    for (k, part) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let [scale, min] = scale_and_min6(&block[4..16], k, [d, m]);
        let bytes = &block[48 + k / 2 * 32..][..32];
        for ((to, byte), upper) in part.iter_mut().zip(bytes).zip(&block[16..48]) {
            let code = byte >> (4 * (k % 2)) & 15 | (upper >> k & 1) << 4;
            *to = scale * f32::from(code) - min;
        }
    }
}

#[inline(always)]
pub(super) fn q6(block: &[u8; 210], out: &mut [f32; BLOCK]) {
    let d = half(block, 208);
    for (k, part) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(block[192 + k] as i8);
        let (at, quarter) = sixes(k);
        let lower = &block[k / 8 * 64 + at + quarter % 2 * 32..][..16];
        let upper = &block[128 + k / 8 * 32 + at..][..16];
        for ((to, lower), upper) in part.iter_mut().zip(lower).zip(upper) {
            let code = lower >> (quarter / 2 * 4) & 15 | (upper >> (2 * quarter) & 3) << 4;
            *to = scale * (f32::from(code) - 32.0);
        }
    }
}

/// Where part `k` of `q6_k` lies in its half of the block: the first of 32 bytes, and which of the four 32 weights those are.
#[inline(always)]
pub(super) const fn sixes(k: usize) -> (usize, usize) {
    (k % 2 * 16, k % 8 / 2)
}

#[inline(always)]
pub(super) fn iq4_xs(block: &[u8; 136], out: &mut [f32; BLOCK]) {
    let d = half(block, 0);
    for (k, part) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let scale = d * scale_xs(block, k);
        for (j, byte) in block[8 + 16 * k..][..16].iter().enumerate() {
            part[j] = scale * f32::from(LEVELS[usize::from(byte & 15)]);
            part[j + 16] = scale * f32::from(LEVELS[usize::from(byte >> 4)]);
        }
    }
}

/// A byte of `tq1_0` is `ceil(t * 256 / 243)`, where `t` has five ternary digits: each is the integer part after the
/// fraction is multiplied by three.
#[inline(always)]
pub(super) fn tq1_0(block: &[u8; 54], out: &mut [f32; BLOCK]) {
    let d = half(block, 52);
    // Bytes, and digits of each: 32 times 5, 16 times 5, 4 times 4.
    let (mut at, mut from) = (0, 0);
    for (bytes, digits) in [(32, 5), (16, 5), (4, 4)] {
        let mut power = 1u8;
        for _ in 0..digits {
            for (to, byte) in out[at..].iter_mut().zip(&block[from..from + bytes]) {
                let digit = (u16::from(byte.wrapping_mul(power)) * 3) >> 8;
                *to = (f32::from(digit) - 1.0) * d;
            }
            at += bytes;
            power = power.wrapping_mul(3);
        }
        from += bytes;
    }
}

#[inline(always)]
pub(super) fn tq2_0(block: &[u8; 66], out: &mut [f32; BLOCK]) {
    let d = half(block, 64);
    for (k, part) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let (at, shift) = twos(k);
        for (to, byte) in part.iter_mut().zip(&block[at..]) {
            *to = (f32::from(byte >> shift & 3) - 1.0) * d;
        }
    }
}
