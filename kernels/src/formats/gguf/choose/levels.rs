//! `iq4_nl`: the best of sixteen scales, weighted by the squares of the values.

use super::super::parts::LEVELS;
use super::parts::{SMALLEST, inverse, largest, set_half, set_nibbles};

/// The level at or above twice the middle to the one before it.
#[inline(always)]
fn code(value: f32) -> u8 {
    let twice = value + value;
    let mut code = 0;
    for two in LEVELS.windows(2) {
        code += u8::from(twice >= (i16::from(two[0]) + i16::from(two[1])).into());
    }
    code
}

/// The weighted sums of `x * level` and `level * level` under an inverse scale.
#[inline(always)]
fn sums(x: &[f32; 32], by: f32) -> [f32; 2] {
    let [mut sum_xq, mut sum_qq] = [0.0; 2];
    for x in x {
        let (w, q) = (x * x, f32::from(LEVELS[usize::from(code(by * x))]));
        sum_xq += w * q * x;
        sum_qq += w * q * q;
    }
    [sum_xq, sum_qq]
}

/// The scale of a block.
#[inline(always)]
fn scale(x: &[f32; 32]) -> f32 {
    let (largest, least) = (largest(x), f32::from(LEVELS[0]));
    if largest.abs() < SMALLEST {
        return 0.0;
    }
    let [sum_xq, sum_qq] = sums(x, 1.0 / (-largest / least));
    let mut scale = if sum_qq > 0.0 { sum_xq / sum_qq } else { 0.0 };
    let mut best = scale * sum_xq;
    for step in -7i8..=7 {
        let [sum_xq, sum_qq] = sums(x, (f32::from(step) + least) / largest);
        if sum_qq > 0.0 && sum_xq * sum_xq > best * sum_qq {
            scale = sum_xq / sum_qq;
            best = scale * sum_xq;
        }
    }
    scale
}

#[inline(always)]
pub(super) fn iq4_nl(x: &[f32; 32]) -> [u8; 18] {
    let (mut bytes, scale) = ([0; 18], scale(x));
    let by = inverse(scale);
    set_half(&mut bytes, 0, scale);
    set_nibbles(&mut bytes[2..], &x.map(|x| code(by * x)));
    bytes
}
