//! The device half of affine formats.

use cubecl::prelude::*;

use crate::float;
use crate::float::FloatBits;
use crate::format::{Affine, Offset};
use crate::launch::rounded;

/// The scale of the group `k`.
#[cube]
pub(crate) fn scale(scales: &[u32], k: usize, #[comptime] affine: Affine) -> f32 {
    match comptime!(affine.params) {
        FloatBits::F32 => f32::reinterpret(scales[2 * k]),
        FloatBits::F16 => float::cube::value(scales[k] & 0xffff, FloatBits::F16),
        FloatBits::Bf16 => float::cube::value(scales[k] & 0xffff, FloatBits::Bf16),
    }
}

/// The offset of the group `k`.
#[cube]
pub(crate) fn offset(scales: &[u32], k: usize, #[comptime] affine: Affine) -> f32 {
    match comptime!(affine.params) {
        FloatBits::F32 => f32::reinterpret(scales[2 * k + 1]),
        FloatBits::F16 => float::cube::value(scales[k] >> 16, FloatBits::F16),
        FloatBits::Bf16 => float::cube::value(scales[k] >> 16, FloatBits::Bf16),
    }
}

/// The weight of a code, rounding twice; `zero` is 0, see [`rounded`].
#[cube]
pub(crate) fn weight(
    code: f32,
    scale: f32,
    offset: f32,
    zero: u32,
    #[comptime] form: Offset,
) -> f32 {
    match form {
        Offset::Bias => rounded(code * scale, zero) + offset,
        Offset::Zero => (rounded(code, zero) - offset) * scale,
    }
}
