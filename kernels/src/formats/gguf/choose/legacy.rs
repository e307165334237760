//! Blocks of 32 with one scale: the codes are nearest under the scale of the largest, before that is rounded to f16.

use super::parts::{inverse, largest, set_half, set_nibbles, whole_part};

#[inline(always)]
pub(super) fn q4_0(x: &[f32; 32]) -> [u8; 18] {
    let (mut bytes, d) = ([0; 18], largest(x) / -8.0);
    let by = inverse(d);
    set_half(&mut bytes, 0, d);
    let codes = x.map(|x| whole_part(x * by + 8.5).min(15) as u8);
    set_nibbles(&mut bytes[2..], &codes);
    bytes
}

#[inline(always)]
pub(super) fn q4_1(x: &[f32; 32]) -> [u8; 20] {
    let (mut bytes, [least, d]) = ([0; 20], least_and_step(x, 15.0));
    let by = inverse(d);
    set_half(&mut bytes, 0, d);
    set_half(&mut bytes, 2, least);
    let codes = x.map(|x| whole_part((x - least) * by + 0.5).min(15) as u8);
    set_nibbles(&mut bytes[4..], &codes);
    bytes
}

#[inline(always)]
pub(super) fn q5_0(x: &[f32; 32]) -> [u8; 22] {
    let (mut bytes, d) = ([0; 22], largest(x) / -16.0);
    let by = inverse(d);
    set_half(&mut bytes, 0, d);
    let codes = x.map(|x| whole_part(x * by + 16.5).min(31) as u8);
    set_fives(&mut bytes[2..], &codes);
    bytes
}

#[inline(always)]
pub(super) fn q5_1(x: &[f32; 32]) -> [u8; 24] {
    let (mut bytes, [least, d]) = ([0; 24], least_and_step(x, 31.0));
    let by = inverse(d);
    set_half(&mut bytes, 0, d);
    set_half(&mut bytes, 2, least);
    let codes = x.map(|x| whole_part((x - least) * by + 0.5) as u8);
    set_fives(&mut bytes[4..], &codes);
    bytes
}

#[inline(always)]
pub(super) fn q8_0(x: &[f32; 32]) -> [u8; 34] {
    let mut bytes = [0; 34];
    // A NaN lasts until the next value.
    let most = x
        .iter()
        .fold(0.0, |most, x| if most > x.abs() { most } else { x.abs() });
    let d = most / 127.0;
    let by = inverse(d);
    set_half(&mut bytes, 0, d);
    for (byte, x) in bytes[2..].iter_mut().zip(x) {
        // Halves away from zero.
        *byte = whole_part((x * by).round()) as u8;
    }
    bytes
}

/// The least value, and the step of `last` steps to the greatest.
#[inline(always)]
fn least_and_step(x: &[f32; 32], last: f32) -> [f32; 2] {
    let (mut least, mut most) = (f32::MAX, f32::MIN);
    for x in x {
        if *x < least {
            least = *x;
        }
        if *x > most {
            most = *x;
        }
    }
    [least, (most - least) / last]
}

/// Sets the fifth bits of codes, a bit each, then their nibbles.
#[inline(always)]
fn set_fives(bytes: &mut [u8], codes: &[u8; 32]) {
    let upper = (0..32).fold(0u32, |upper, j| upper | u32::from(codes[j] >> 4 & 1) << j);
    bytes[..4].copy_from_slice(&upper.to_le_bytes());
    set_nibbles(&mut bytes[4..], codes);
}
