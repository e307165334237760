//! f16 and bf16 as bits: widened to `f32`, and `f32` rounded to them, ties to even.
//!
//! Without branches, so that loops over them become vector code.

/// The sign bit of an `f32`.
const SIGN: u32 = 1 << 31;

/// A NaN that no operation changes.
pub(crate) const QUIET: u32 = 1 << 22;

/// The value of an f16.
#[inline(always)]
pub(crate) fn widen_f16(bits: u16) -> f32 {
    let (sign, magnitude) = (u32::from(bits & 0x8000) << 16, u32::from(bits & 0x7fff));
    // The exponent moves from a bias of 15 to one of 127; infinity and NaN have the largest of either.
    let normal = (magnitude << 13) + ((127 - 15) << 23);
    let normal = if magnitude >= 0x7c00 {
        normal | 0x7f80_0000
    } else {
        normal
    };
    // Subnormals count steps of 2^-24. Through i32, because SSE2 converts nothing else.
    let subnormal = (magnitude as i32 as f32 * f32::from_bits((127 - 24) << 23)).to_bits();
    f32::from_bits(sign | if magnitude < 0x400 { subnormal } else { normal })
}

/// The bits of the nearest f16, ties to even.
#[inline(always)]
pub(crate) fn narrow_f16(value: f32) -> u16 {
    const SMALLEST_NORMAL: u32 = (127 - 14) << 23;
    const INFINITE: u32 = 0x7c00;
    let bits = value.to_bits();
    let (sign, magnitude) = (bits >> 16 & 0x8000, bits & !SIGN);
    // Adding half a step carries into the bits that stay; then the bias of the exponent changes from 127 to 15.
    let rounded = magnitude.wrapping_add(0xfff + (magnitude >> 13 & 1)) >> 13;
    let normal = rounded.wrapping_sub((127 - 15) << 10);
    let normal = if normal < INFINITE { normal } else { INFINITE };
    // Next to 1/2 an f32 steps by 2^-24, as subnormal f16 do: the adder rounds.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits();
    let subnormal = subnormal.wrapping_sub(0.5f32.to_bits());
    let narrow = if magnitude < SMALLEST_NORMAL {
        subnormal
    } else {
        normal
    };
    let nan = INFINITE | 0x200 | magnitude >> 13 & 0x3ff;
    let is_nan = magnitude > f32::INFINITY.to_bits();
    (sign | if is_nan { nan } else { narrow }) as u16
}

/// To the nearest f16, ties to even, and back.
#[inline(always)]
pub(super) fn round_f16(value: f32) -> f32 {
    let bits = value.to_bits();
    let (sign, magnitude) = (bits & SIGN, bits & !SIGN);
    let normal = (magnitude.wrapping_add(0xfff + (magnitude >> 13 & 1))) & !0x1fff;
    // From the middle between the largest f16, 65504, and 65536.
    let normal = if normal >= 65536f32.to_bits() {
        f32::INFINITY.to_bits()
    } else {
        normal
    };
    // Next to 1/2 an f32 steps by 2^-24, as subnormal f16 do: the adder rounds.
    let subnormal = ((f32::from_bits(magnitude) + 0.5) - 0.5).to_bits();
    let smallest_normal = (127 - 14) << 23;
    let rounded = if magnitude < smallest_normal {
        subnormal
    } else {
        normal
    };
    let nan = magnitude > f32::INFINITY.to_bits();
    f32::from_bits(sign | if nan { magnitude | QUIET } else { rounded })
}

/// To the nearest bf16, ties to even, and back.
#[inline(always)]
pub(super) fn round_bf16(value: f32) -> f32 {
    let bits = value.to_bits();
    // An overflow carries into infinity.
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    let nan = bits & !SIGN > f32::INFINITY.to_bits();
    f32::from_bits(if nan { bits | QUIET } else { rounded } & 0xffff_0000)
}
