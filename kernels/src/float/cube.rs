//! The device half of source weights.

use cubecl::prelude::*;

use super::FloatBits;

/// The value with these bits, 16-bit ones in the low half of `bits` and nothing above them. Exact.
#[cube]
pub(crate) fn value(bits: u32, #[comptime] of: FloatBits) -> f32 {
    match of {
        FloatBits::F32 => f32::reinterpret(bits),
        FloatBits::Bf16 => f32::reinterpret(bits << 16),
        FloatBits::F16 => {
            let magnitude = bits & 0x7fff;
            let normal = (magnitude << 13) + comptime!((127u32 - 15) << 23);
            let normal = select(magnitude >= 0x7c00, normal | 0x7f80_0000, normal);
            // Subnormals count steps of 2^-24, which are normal as an f32.
            let step = comptime!(f32::from_bits((127 - 24) << 23));
            let subnormal = u32::reinterpret(whole(magnitude) * step);
            let magnitude = select(magnitude < 0x400, subnormal, normal);
            f32::reinterpret(magnitude | ((bits & 0x8000) << 16))
        }
    }
}

/// A whole number below 2^23. Next to 2^23 an `f32` steps by 1, and a subtraction takes a device less time
/// than its conversion, which may run on a fraction of its units.
#[cube]
pub(crate) fn whole(value: u32) -> f32 {
    f32::reinterpret(value | 0x4b00_0000) - 8_388_608.0
}
