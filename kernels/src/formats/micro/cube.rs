//! The device half of micro formats.

use cubecl::prelude::*;

use super::Micro;
use crate::arith::launch::rounded;
use crate::format::Fp8Kind;
use crate::formats::fp8;

/// A code as a number before it is scaled.
#[cube]
pub(crate) fn number(code: u32, #[comptime] micro: Micro) -> f32 {
    match micro {
        Micro::Mxfp4 => e2m1(code),
        Micro::Mxfp8 => fp8::cube::value(code, Fp8Kind::E4m3),
        Micro::Nvfp4 { .. } => e2m1(code),
    }
}

/// The value of an E2M1 code: in `f32` its three low bits are the lowest of the exponent and the highest of the
/// mantissa.
#[cube]
fn e2m1(code: u32) -> f32 {
    let normal = f32::reinterpret(((code & 7) << 22) + comptime!(126u32 << 23));
    // Exponent 0 has no leading one, and stands for exponent 1.
    let subnormal = normal * 2.0 - 1.0;
    let magnitude = u32::reinterpret(select((code & 7) < 2, subnormal, normal));
    f32::reinterpret(magnitude | ((code & 8) << 28))
}

/// The scale of the group `k`; `zero` is 0, see [`rounded`].
///
/// Byte 0 of a power of two is subnormal, so that a device may take it for 0.
#[cube]
pub(crate) fn scale(scales: &[u32], k: usize, zero: u32, #[comptime] micro: Micro) -> f32 {
    let byte = (scales[k / 4] >> ((k % 4 * 8) as u32)) & 0xff;
    match micro {
        Micro::Mxfp4 => power(byte),
        Micro::Mxfp8 => power(byte),
        Micro::Nvfp4 { global } => {
            let scale = fp8::cube::value(byte, Fp8Kind::E4m3);
            if comptime!(global) {
                rounded(scale * f32::reinterpret(scales[scales.len() - 1]), zero)
            } else {
                scale
            }
        }
    }
}

/// The value of an E8M0 byte.
#[cube]
fn power(byte: u32) -> f32 {
    let bits = select(byte == 0, 1u32 << 22, byte << 23);
    f32::reinterpret(select(byte == 255, 0x7fc0_0000u32, bits))
}
