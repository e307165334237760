//! The device half of INT8.

use cubecl::prelude::*;

use super::STEP;
use crate::arith::float;
use crate::arith::launch::rounded;

/// A code as a number.
#[cube]
pub(crate) fn signed(code: u32) -> f32 {
    // With the sign bit turned, codes count from -128.
    float::cube::whole(code ^ 0x80) - 128.0
}

/// The weight of a code in a row whose largest magnitude is `largest`, rounding twice; `zero` is 0, see [`rounded`].
#[cube]
pub(crate) fn weight(code: f32, largest: f32, zero: u32) -> f32 {
    rounded(code * largest, zero) * STEP
}
