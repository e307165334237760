//! The device half of FP8.

use cubecl::prelude::*;

use crate::format::Fp8Kind;

const fn mantissa_bits(kind: Fp8Kind) -> u32 {
    match kind {
        Fp8Kind::E4m3 => 3,
        Fp8Kind::E5m2 => 2,
    }
}

const fn bias(kind: Fp8Kind) -> u32 {
    match kind {
        Fp8Kind::E4m3 => 7,
        Fp8Kind::E5m2 => 15,
    }
}

/// The first magnitude that is no number.
const fn special(kind: Fp8Kind) -> u32 {
    match kind {
        Fp8Kind::E4m3 => 0x7f,
        Fp8Kind::E5m2 => 0x7c,
    }
}

/// The value of a code.
///
/// No subnormal float on the way, since devices may take those for 0: exponent 0 is first read as if
/// there were a leading one, which is then subtracted.
#[cube]
pub(crate) fn value(code: u32, #[comptime] kind: Fp8Kind) -> f32 {
    let mantissa = comptime!(mantissa_bits(kind));
    let bias = comptime!(bias(kind));
    let magnitude = (code & 0x7f) << comptime!(23 - mantissa);
    // Exponent 0 stands for the exponent 1, one less than the code for 1 of a leading one.
    let normal = f32::reinterpret(magnitude + comptime!((127 - bias) << 23));
    let smallest = comptime!(f32::from_bits((127 + 1 - bias) << 23));
    let subnormal = normal * 2.0 - smallest;
    let bits = u32::reinterpret(select(magnitude < 0x80_0000, subnormal, normal));
    let special_magnitude = comptime!(special(kind) << (23 - mantissa));
    let bits = select(
        magnitude >= special_magnitude,
        nonfinite(magnitude, special_magnitude, kind),
        bits,
    );
    f32::reinterpret(bits | ((code & 0x80) << 24))
}

/// Bits of an infinity or a NaN: E4M3 has one NaN, E5M2 an infinity first.
#[cube]
fn nonfinite(magnitude: u32, #[comptime] special: u32, #[comptime] kind: Fp8Kind) -> u32 {
    match kind {
        Fp8Kind::E4m3 => 0x7fc0_0000u32.runtime(),
        Fp8Kind::E5m2 => select(magnitude > special, 0x7fc0_0000u32, 0x7f80_0000u32),
    }
}
