//! The device half of nested scales.

use cubecl::prelude::*;

use super::BLOCK;
use crate::arith::launch::rounded;
use crate::arith::pack::CODES8;

/// The scale `k` of nested `scales`, whose first upper scale is the word `upper`. `map` is
/// [`MAP`](super::MAP); `zero` is 0, see [`rounded`].
#[cube]
pub(crate) fn get(scales: &[u32], map: &[f32], upper: usize, k: usize, zero: u32) -> f32 {
    let code = (scales[k / CODES8] >> (k as u32 % CODES8 as u32 * 8)) & 0xff;
    let product = map[code as usize] * f32::reinterpret(scales[upper + k / BLOCK]);
    rounded(product, zero) + f32::reinterpret(scales[scales.len() - 1])
}
