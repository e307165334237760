//! Fields of blocks.

use crate::arith::halves::widen_f16;

/// Sixteen uneven levels, of `kvalues_iq4nl`.
pub(crate) const LEVELS: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

/// The f16 at byte `at`, widened.
#[inline(always)]
pub(crate) fn half(bytes: &[u8], at: usize) -> f32 {
    widen_f16(short(bytes, at))
}

/// The two bytes from `at` on as a number.
#[inline(always)]
pub(crate) fn short(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// The four bytes from `at` on as a number.
#[inline(always)]
pub(crate) fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from(short(bytes, at)) | u32::from(short(bytes, at + 2)) << 16
}

/// The nibble `k` of bytes, the low one of each first.
#[inline(always)]
pub(crate) const fn nibble(bytes: &[u8], k: usize) -> u8 {
    bytes[k / 2] >> (4 * (k % 2)) & 15
}
