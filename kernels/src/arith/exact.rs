//! Arithmetic on the bits of `f32`, rounded as IEEE 754 says: the device halves of packers use it where a device
//! promises less.
//!
//! Vulkan, WGSL and Metal divide with an error of a few units in the last place, may take subnormals for zero, may fuse
//! a product into a sum, and need not know NaN. What is left is enough: additions and multiplications of normal
//! numbers with a normal result, whole numbers, and bits.
//!
//! Everything here takes and gives bit patterns. NaN is x86's: one that comes in comes out quiet, the first of two, and
//! an invalid operation makes the one with a sign.

use cubecl::prelude::*;

/// The sign bit of an `f32`.
pub(crate) const SIGN: u32 = 1 << 31;

/// The bits of infinity; magnitudes above are NaN.
pub(crate) const INFINITY: u32 = 0x7f80_0000;

/// The bit that makes a NaN quiet.
pub(crate) const QUIET: u32 = 1 << 22;

/// The lowest bit of the exponent, and the leading bit of a significand.
const UNIT: u32 = 1 << 23;

/// The 24 bits of a magnitude that is finite and not zero, the leading one set.
#[cube]
fn significand(magnitude: u32) -> u32 {
    let subnormal = magnitude << (magnitude.leading_zeros().max(8u32) - 8u32);
    select(magnitude < UNIT, subnormal, (magnitude & (UNIT - 1)) | UNIT)
}

/// The exponent that belongs to [`significand`]: below 1 for a subnormal value.
#[cube]
fn exponent(magnitude: u32) -> i32 {
    let subnormal = 9i32 - i32::cast_from(magnitude.leading_zeros());
    select(
        magnitude < UNIT,
        subnormal,
        i32::cast_from(magnitude >> 23u32),
    )
}

/// `value >> count`, with the lowest bit set when anything was lost.
#[cube]
fn shift_right_sticky(value: u32, count: u32) -> u32 {
    let kept = count.min(31u32);
    let lost = value & ((1u32 << kept) - 1u32);
    (value >> kept) | u32::cast_from(lost != 0u32)
}

/// The nearest `f32`, ties to even, to `significand * 2^(exponent - 157)`: bit 30 is the leading bit and bit 0 stands
/// for everything below as well.
#[cube]
fn round(sign: u32, exponent: i32, significand: u32) -> u32 {
    let shift = u32::cast_from((1i32 - exponent).max(0i32));
    let significand = shift_right_sticky(significand, shift);
    let rounded = (significand + 0x3fu32 + ((significand >> 7u32) & 1u32)) >> 7u32;
    // The leading bit adds the one that is taken off the exponent here, unless it was shifted away.
    let upper = u32::cast_from((exponent - 1i32).clamp(0i32, 254i32)) << 23u32;
    sign | (upper + rounded).min(INFINITY)
}

/// The NaN of an operation on `a` and `b`.
#[cube]
fn nan_of(a: u32, b: u32) -> u32 {
    select(
        (a & !SIGN) > INFINITY,
        a | QUIET,
        select((b & !SIGN) > INFINITY, b | QUIET, SIGN | INFINITY | QUIET),
    )
}

/// `a * b`.
#[cube]
pub(crate) fn mul(a: u32, b: u32) -> u32 {
    let sign = (a ^ b) & SIGN;
    let (x, y) = (a & !SIGN, b & !SIGN);
    let mut product = sign;
    if x >= INFINITY || y >= INFINITY {
        let invalid = x > INFINITY || y > INFINITY || x == 0u32 || y == 0u32;
        product = select(invalid, nan_of(a, b), sign | INFINITY);
    } else if x != 0u32 && y != 0u32 {
        let (m, n) = (significand(x), significand(y));
        // 48 bits: the upper 32, of which the first two may be the leading one, and whether the others are zero.
        let upper = (m << 8u32).mul_hi(n << 8u32);
        let sticky = u32::cast_from(((m * n) & 0xffffu32) != 0u32);
        let carry = upper >> 31u32;
        let leading = (upper >> carry) | (upper & carry) | sticky;
        product = round(
            sign,
            exponent(x) + exponent(y) - 127i32 + i32::cast_from(carry),
            leading,
        );
    }
    product
}

/// `a / b`.
#[cube]
pub(crate) fn div(a: u32, b: u32) -> u32 {
    let sign = (a ^ b) & SIGN;
    let (x, y) = (a & !SIGN, b & !SIGN);
    let mut quotient = sign;
    if x >= INFINITY || y >= INFINITY {
        let invalid = x > INFINITY || y > INFINITY || x == y;
        quotient = select(
            invalid,
            nan_of(a, b),
            select(x == INFINITY, sign | INFINITY, sign),
        );
    } else if y == 0u32 {
        quotient = select(x == 0u32, nan_of(a, b), sign | INFINITY);
    } else if x != 0u32 {
        let (m, n) = (significand(x), significand(y));
        let below = u32::cast_from(m < n);
        // The upper 24 bits, from the device's own quotient between 1 and 2 and what that leaves: a number of 32
        // bits with a sign, as long as the device is less than 128 units off.
        let m = m << below;
        let guess = f32::cast_from(m) / f32::cast_from(n);
        let mut upper = u32::cast_from(guess * 8_388_608.0f32);
        let mut rest = (m << 23u32) - upper * n;
        while rest >= SIGN {
            upper -= 1u32;
            rest += n;
        }
        while rest >= n {
            upper += 1u32;
            rest -= n;
        }
        let lower = (rest << 7u32) / n;
        let sticky = u32::cast_from((rest << 7u32) != lower * n);
        quotient = round(
            sign,
            exponent(x) - exponent(y) + 127i32 - i32::cast_from(below),
            (upper << 7u32) | lower | sticky,
        );
    }
    quotient
}

/// `a + b`.
#[cube]
pub(crate) fn add(a: u32, b: u32) -> u32 {
    let (x, y) = (a & !SIGN, b & !SIGN);
    let mut sum = nan_of(a, b);
    if safe_to_add(x) && safe_to_add(y) {
        sum = u32::reinterpret(f32::reinterpret(a) + f32::reinterpret(b));
    } else if x >= INFINITY || y >= INFINITY {
        let invalid = x > INFINITY || y > INFINITY || (x == y && a != b);
        if !invalid {
            sum = select(x == INFINITY, a, b);
        }
    } else {
        let sign = select(x >= y, a, b) & SIGN;
        let (large, small) = (x.max(y), x.min(y));
        let exponent = (large >> 23u32).max(1u32);
        let distance = exponent - (small >> 23u32).max(1u32);
        let small = shift_right_sticky(fraction(small) << 7u32, distance);
        let large = fraction(large) << 7u32;
        let alike = (a ^ b) < SIGN;
        let total = select(alike, large + small, large - small);
        let carry = total >> 31u32;
        let total = (total >> carry) | (total & carry);
        // A value below bit 30 has lost no bit, or one at most, so it may move up.
        let up = total.leading_zeros().max(1u32) - 1u32;
        let rounded = round(
            sign,
            i32::cast_from(exponent + carry) - i32::cast_from(up),
            total << up.min(31u32),
        );
        sum = select(total == 0u32, select(alike, sign, 0u32), rounded);
    }
    sum
}

/// The bits of a finite magnitude below its exponent, with the leading one where it has one.
#[cube]
fn fraction(magnitude: u32) -> u32 {
    (magnitude & (UNIT - 1)) | select(magnitude < UNIT, 0u32, UNIT)
}

/// Whether a device adds two such magnitudes rightly: from 2^-100, so that a difference is no subnormal, to below 2^126.
#[cube]
fn safe_to_add(magnitude: u32) -> bool {
    magnitude - (27u32 << 23u32) < (226u32 << 23u32)
}

/// To the nearest f16, ties to even, and back to the bits of an `f32`.
#[cube]
pub(crate) fn round_f16(bits: u32) -> u32 {
    let (sign, magnitude) = (bits & SIGN, bits & !SIGN);
    // f16 has ten bits after the leading one, and fewer below 2^-14: in whole numbers, cut off at that bit.
    let exponent = magnitude >> 23u32;
    let cut = 13u32 + 113u32 - exponent.clamp(95u32, 113u32);
    let whole = fraction(magnitude);
    let odd = (whole >> cut) & 1u32;
    let steps = (whole + (1u32 << (cut - 1u32)) - 1u32 + odd) >> cut;
    let normal = (magnitude + 0xfffu32 + ((magnitude >> 13u32) & 1u32)) & 0xffff_e000u32;
    let normal = select(normal >= (143u32 << 23u32), INFINITY, normal);
    // A subnormal f16 counts steps of 2^-24.
    let subnormal = u32::reinterpret(f32::cast_from(steps) * comptime!(f32::from_bits(103 << 23)));
    let rounded = select(magnitude < (113u32 << 23u32), subnormal, normal);
    sign | select(magnitude > INFINITY, magnitude | QUIET, rounded)
}

/// To the nearest bf16, ties to even, and back to the bits of an `f32`.
#[cube]
pub(crate) fn round_bf16(bits: u32) -> u32 {
    let rounded = bits + 0x7fffu32 + ((bits >> 16u32) & 1u32);
    select((bits & !SIGN) > INFINITY, bits | QUIET, rounded) & 0xffff_0000u32
}

#[cfg(test)]
mod tests;
