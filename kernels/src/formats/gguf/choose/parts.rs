//! Steps that several types have in common when their codes are chosen.

/// Below it a part is zeros, `GROUP_MAX_EPS`.
pub(super) const SMALLEST: f32 = 1e-15;

/// The first value of the largest magnitude; 0 where there is none above 0.
#[inline(always)]
pub(super) fn largest(x: &[f32]) -> f32 {
    let (mut magnitude, mut largest) = (0.0, 0.0);
    for value in x {
        if value.abs() > magnitude {
            (magnitude, largest) = (value.abs(), *value);
        }
    }
    largest
}

/// The inverse, and 0 of 0.
#[inline(always)]
pub(super) fn inverse(value: f32) -> f32 {
    if value == 0.0 { 0.0 } else { 1.0 / value }
}

/// The nearest whole number, ties to even: the low bits of a sum with 1.5 * 2^23. Beyond 2^22 in magnitude the bits
/// mean nothing, and are those that llama.cpp takes.
#[inline(always)]
pub(super) fn near(value: f32) -> i32 {
    let bits = (value + 12_582_912.0).to_bits();
    (bits & 0x7f_ffff) as i32 - 0x40_0000
}

/// The whole part as a byte, as x86-64 converts: 0 beyond the range of an `i32`.
#[inline(always)]
pub(super) fn whole_part(value: f32) -> i8 {
    const END: f32 = 2_147_483_648.0;
    if (-END..END).contains(&value) {
        value as i32 as i8
    } else {
        0
    }
}

/// Sets a half at `at`.
#[inline(always)]
pub(super) fn set_half(bytes: &mut [u8], at: usize, value: f32) {
    let bits = crate::arith::halves::narrow_f16(value);
    bytes[at..at + 2].copy_from_slice(&bits.to_le_bytes());
}

/// Sets the nibbles of 32 codes, byte `j` those of `j` and `j + 16`.
#[inline(always)]
pub(super) fn set_nibbles(bytes: &mut [u8], codes: &[u8; 32]) {
    let (first, second) = codes.split_at(16);
    for ((byte, low), high) in bytes.iter_mut().zip(first).zip(second) {
        *byte = low & 15 | high << 4;
    }
}
