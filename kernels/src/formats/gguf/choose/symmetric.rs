//! Blocks of 256 whose parts, 16 weights each, have a scale alone: `q3_k`, `q6_k`. The scale of a part is that of the
//! least squares under its codes, weighted by the squares of the values.

use super::super::k::{BLOCK, scale6, sixes, twos};
use super::super::parts::half;
use super::parts::{SMALLEST, largest, near, set_half};

/// Weights of a part.
const PART: usize = 16;

/// Parts of a block.
const PARTS: usize = BLOCK / PART;

/// The sums of `x * code` and `code * code`, weighted.
#[inline(always)]
fn sums(x: &[f32; PART], codes: &[i32; PART]) -> [f32; 2] {
    let [mut sum_xl, mut sum_ll] = [0.0; 2];
    for (x, code) in x.iter().zip(codes) {
        let (w, l) = (x * x, *code as f32);
        sum_xl += w * x * l;
        sum_ll += w * l * l;
    }
    [sum_xl, sum_ll]
}

/// The codes under an inverse scale, from `-half` to `half - 1`.
#[inline(always)]
fn codes_under(x: &[f32; PART], by: f32, half: i32) -> [i32; PART] {
    x.map(|x| near(by * x).clamp(-half, half - 1))
}

/// Codes under a rounded scale; those of the fit stay where the scale is 0.
#[inline(always)]
fn again(x: &[f32; PART], scale: f32, half: i32, codes: &mut [i32; PART]) {
    if scale != 0.0 {
        *codes = x.map(|x| near(x / scale).clamp(-half, half - 1));
    }
}

/// The codes of a part of zeros, which are the least.
const fn none(half: i32) -> ([i32; PART], f32) {
    ([-half; PART], 0.0)
}

/// Codes and scale of a part of `q3_k`: the codes of the first guess are changed one by one, as long as that helps, in five
/// rounds at most.
#[inline(always)]
fn fit3(x: &[f32; PART]) -> ([i32; PART], f32) {
    const HALF: i32 = 4;
    let largest = largest(x);
    if largest.abs() < SMALLEST {
        return none(HALF);
    }
    let mut codes = codes_under(x, -4.0 / largest, HALF);
    let [mut sum_xl, mut sum_ll] = sums(x, &codes);
    for _ in 0..5 {
        let mut changed = false;
        for (x, code) in x.iter().zip(&mut codes) {
            let (w, l) = (x * x, *code as f32);
            // Without this weight.
            let mut others_xl = sum_xl - w * x * l;
            if others_xl <= 0.0 || others_xl.is_nan() {
                continue;
            }
            let mut others_ll = sum_ll - w * l * l;
            let better = near(x * others_ll / others_xl).clamp(-HALF, HALF - 1);
            if better == *code {
                continue;
            }
            let l = better as f32;
            others_xl += w * x * l;
            others_ll += w * l * l;
            if others_ll > 0.0 && others_xl * others_xl * sum_ll > sum_xl * sum_xl * others_ll {
                (*code, sum_xl, sum_ll) = (better, others_xl, others_ll);
                changed = true;
            }
        }
        if !changed {
            break;
        }
    }
    let scale = if sum_ll > 0.0 { sum_xl / sum_ll } else { 0.0 };
    (codes, scale)
}

#[inline(always)]
pub(super) fn q3(x: &[f32; BLOCK]) -> [u8; 110] {
    let parts = x.as_chunks::<PART>().0;
    let fits = core::array::from_fn::<_, PARTS, _>(|k| fit3(&parts[k]));
    let scale = largest(&fits.map(|(_, scale)| scale));

    let mut bytes = [0; 110];
    if scale != 0.0 {
        let by = -32.0 / scale;
        for (k, (_, scale)) in fits.iter().enumerate() {
            // As a signed byte before the ends are compared.
            let s = i32::from(near(by * scale) as i8).clamp(-32, 31) + 32;
            let (low, upper) = ((s & 15) as u8, (s >> 4) as u8);
            bytes[96 + k % 8] |= low << (4 * (k / 8));
            bytes[104 + k % 4] |= upper << (2 * (k / 4));
        }
        set_half(&mut bytes, 108, 1.0 / by);
    }
    let d = half(&bytes, 108);
    for (k, (x, (mut codes, _))) in parts.iter().zip(fits).enumerate() {
        again(x, d * scale6(&bytes[96..108], k), 4, &mut codes);
        let (at, shift) = twos(k);
        for (l, code) in codes.into_iter().enumerate() {
            let code = (code + 4) as u8;
            bytes[32 + at + l] |= (code & 3) << shift;
            bytes[k % 2 * 16 + l] |= code >> 2 << (k / 2);
        }
    }
    bytes
}

/// Codes and scale of a part of `q6_k`: the best of nineteen guesses, the first of which stands for itself.
#[inline(always)]
fn fit6(x: &[f32; PART]) -> ([i32; PART], f32) {
    const HALF: i32 = 32;
    let largest = largest(x);
    if largest.abs() < SMALLEST {
        return none(HALF);
    }
    let mut codes = codes_under(x, -32.0 / largest, HALF);
    let [sum_xl, sum_ll] = sums(x, &codes);
    let mut scale = if sum_ll == 0.0 { 0.0 } else { sum_xl / sum_ll };
    let mut best = scale * sum_xl;
    for step in (-9..=9).filter(|step| *step != 0) {
        let by = -(32.0 + 0.1 * step as f32) / largest;
        let tried = codes_under(x, by, HALF);
        let [sum_xl, sum_ll] = sums(x, &tried);
        if sum_ll > 0.0 && sum_xl * sum_xl > best * sum_ll {
            (codes, scale) = (tried, sum_xl / sum_ll);
            best = scale * sum_xl;
        }
    }
    (codes, scale)
}

#[inline(always)]
pub(super) fn q6(x: &[f32; BLOCK]) -> [u8; 210] {
    let parts = x.as_chunks::<PART>().0;
    let fits = core::array::from_fn::<_, PARTS, _>(|k| fit6(&parts[k]));
    let scale = largest(&fits.map(|(_, scale)| scale));

    let mut bytes = [0; 210];
    if scale.abs() < SMALLEST {
        return bytes;
    }
    let by = -128.0 / scale;
    set_half(&mut bytes, 208, 1.0 / by);
    let d = half(&bytes, 208);
    for (k, (x, (mut codes, scale))) in parts.iter().zip(fits).enumerate() {
        let s = near(by * scale).min(127) as i8;
        bytes[192 + k] = s as u8;
        again(x, d * f32::from(s), 32, &mut codes);
        let (at, quarter) = sixes(k);
        let (lower, upper) = (k / 8 * 64 + at + quarter % 2 * 32, 128 + k / 8 * 32 + at);
        for (l, code) in codes.into_iter().enumerate() {
            let code = (code + 32) as u8;
            bytes[lower + l] |= (code & 15) << (quarter / 2 * 4);
            bytes[upper + l] |= code >> 4 << (2 * quarter);
        }
    }
    bytes
}
