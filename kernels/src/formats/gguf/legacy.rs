//! Blocks with one scale: `d` first, then a minimum where there is one, then the upper bits of codes, then their lower
//! ones.
//!
//! In a block of 32, byte `j` of the nibbles holds the codes `j` and `j + 16`, the earlier one in its low half.

use super::parts::{LEVELS, half, word};

/// Values of codes whose nibbles are `low`: `of(j, code)`.
#[inline(always)]
fn halves(low: &[u8], out: &mut [f32; 32], of: impl Fn(usize, u8) -> f32) {
    let (first, second) = out.split_at_mut(16);
    for (j, (to, byte)) in first.iter_mut().zip(low).enumerate() {
        *to = of(j, byte & 15);
    }
    for (j, (to, byte)) in second.iter_mut().zip(low).enumerate() {
        *to = of(j + 16, byte >> 4);
    }
}

/// A code with the bit `j` of `upper` above its nibble.
#[inline(always)]
fn fifth(upper: u32, j: usize, nibble: u8) -> u8 {
    nibble | ((upper >> j & 1) << 4) as u8
}

#[inline(always)]
pub(super) fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half(block, 0);
    halves(&block[2..], out, |_, code| (f32::from(code) - 8.0) * d);
}

#[inline(always)]
pub(super) fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (half(block, 0), half(block, 2));
    halves(&block[4..], out, |_, code| f32::from(code) * d + m);
}

#[inline(always)]
pub(super) fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let (d, upper) = (half(block, 0), word(block, 2));
    halves(&block[6..], out, |j, code| {
        (f32::from(fifth(upper, j, code)) - 16.0) * d
    });
}

#[inline(always)]
pub(super) fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m, upper) = (half(block, 0), half(block, 2), word(block, 4));
    halves(&block[8..], out, |j, code| {
        f32::from(fifth(upper, j, code)) * d + m
    });
}

#[inline(always)]
pub(super) fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = half(block, 0);
    for (to, code) in out.iter_mut().zip(&block[2..]) {
        *to = f32::from(*code as i8) * d;
    }
}

#[inline(always)]
pub(super) fn iq4_nl(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half(block, 0);
    halves(&block[2..], out, |_, code| {
        d * f32::from(LEVELS[usize::from(code)])
    });
}

/// Bits in their order.
#[inline(always)]
pub(super) fn q1_0(block: &[u8; 18], out: &mut [f32; 128]) {
    let d = half(block, 0);
    for (eight, byte) in out.as_chunks_mut::<8>().0.iter_mut().zip(&block[2..]) {
        for (k, to) in eight.iter_mut().enumerate() {
            *to = if byte >> k & 1 == 1 { d } else { -d };
        }
    }
}

/// Two bits each, in their order.
#[inline(always)]
pub(super) fn q2_0(block: &[u8; 18], out: &mut [f32; 64]) {
    let d = half(block, 0);
    for (four, byte) in out.as_chunks_mut::<4>().0.iter_mut().zip(&block[2..]) {
        for (k, to) in four.iter_mut().enumerate() {
            *to = (f32::from(byte >> (2 * k) & 3) - 1.0) * d;
        }
    }
}
