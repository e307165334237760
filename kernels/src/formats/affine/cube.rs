//! The device half of affine formats.

use cubecl::prelude::*;

use crate::arith::float::pack_cube::widen;
use crate::arith::launch::rounded;
use crate::format::{Affine, Offset};

/// The scale of the group `k`.
#[cube]
pub(crate) fn scale(scales: &[u32], k: usize, #[comptime] affine: Affine) -> f32 {
    let params = comptime!(affine.params);
    let words = comptime!(affine.param_words());
    f32::reinterpret(widen(scales[k * words], 0usize, params))
}

/// The offset of the group `k`.
#[cube]
pub(crate) fn offset(scales: &[u32], k: usize, #[comptime] affine: Affine) -> f32 {
    let params = comptime!(affine.params);
    let words = comptime!(affine.param_words());
    let half = comptime!(2 - words);
    f32::reinterpret(widen(
        scales[k * words + comptime!(words - 1)],
        half,
        params,
    ))
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
