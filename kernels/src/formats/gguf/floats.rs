//! Blocks of 4-bit floats. In 32 or 16 weights with one scale, byte `j` holds the codes of `j` and of `j` after the middle.

use crate::format::Fp8Kind;
use crate::formats::micro::E2M1;

/// Values of codes times half a scale: files hold twice the values of [`E2M1`], as whole numbers.
#[inline(always)]
fn codes(bytes: &[u8], scale: f32, out: &mut [f32]) {
    let (first, second) = out.split_at_mut(bytes.len());
    // A whole number has no negative zero.
    let value = |code: u8| (2.0 * E2M1[usize::from(code)] + 0.0) * scale;
    for ((first, second), byte) in first.iter_mut().zip(second).zip(bytes) {
        *first = value(byte & 15);
        *second = value(byte >> 4);
    }
}

/// `2^(e - 128)`, subnormal below an `e` of 2.
#[inline(always)]
pub(super) const fn power(exponent: u8) -> f32 {
    f32::from_bits(match exponent {
        0 => 1 << 21,
        1 => 1 << 22,
        _ => (exponent as u32 - 1) << 23,
    })
}

#[inline(always)]
pub(super) fn mxfp4(block: &[u8; 17], out: &mut [f32; 32]) {
    codes(&block[1..], power(block[0]), out);
}

/// Half a value of E4M3 without its sign, where `0x7f` stands for 0.
#[inline(always)]
pub(super) fn e4m3_half(byte: u8) -> f32 {
    match byte {
        0x7f => 0.0,
        // The number that other codes have in place of NaN.
        0xff => 240.0,
        _ => Fp8Kind::E4m3.values()[usize::from(byte & 0x7f)] * 0.5,
    }
}

#[inline(always)]
pub(super) fn nvfp4(block: &[u8; 36], out: &mut [f32; 64]) {
    let (scales, bytes) = block.split_at(4);
    let parts = out.as_chunks_mut::<16>().0.iter_mut();
    for ((part, scale), bytes) in parts.zip(scales).zip(bytes.chunks_exact(8)) {
        codes(bytes, e4m3_half(*scale), part);
    }
}
