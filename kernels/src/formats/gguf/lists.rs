//! Blocks of 256 whose weights are taken by fours or eights from a list (see [`super::grids`]), with signs or a shift.

use super::grids::{IQ1, IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS};
use super::k::BLOCK;
use super::parts::{half, nibble, short, word};
use crate::arith::halves::widen_f16;

/// Seven signs, and an eighth that makes their number even.
#[inline(always)]
const fn eight_signs(seven: u32) -> u8 {
    let seven = (seven & 127) as u8;
    seven | ((seven.count_ones() as u8 & 1) << 7)
}

/// Magnitudes times a scale, negative where the bit of `signs` is set.
#[inline(always)]
fn signed(scale: f32, magnitudes: &[u8], signs: u8, out: &mut [f32; 8]) {
    for (k, (to, magnitude)) in out.iter_mut().zip(magnitudes).enumerate() {
        let value = scale * f32::from(*magnitude);
        *to = if signs >> k & 1 == 1 { -value } else { value };
    }
}

/// The eights of a block, with their numbers.
#[inline(always)]
fn eights(out: &mut [f32; BLOCK]) -> impl Iterator<Item = (usize, &mut [f32; 8])> {
    out.as_chunks_mut().0.iter_mut().enumerate()
}

/// The scale of the eight `k`, over `d`, from the upper four bits of the signs of each 32 and a constant.
#[inline(always)]
fn above_signs(signs: u32, d: f32, by: f32) -> f32 {
    d * (0.5 + (signs >> 28) as f32) * by
}

/// The signs of eight `k` in `iq2_xxs`, and of the others of its 32, under a scale.
#[inline(always)]
fn signs_xxs(block: &[u8], k: usize) -> u32 {
    word(block, 2 + 8 * (k / 4) + 4)
}

/// The scale of eight `k`.
#[inline(always)]
pub(super) fn scale2_xxs(block: &[u8], k: usize) -> f32 {
    above_signs(signs_xxs(block, k), half(block, 0), 0.25)
}

/// For each 32: four indices, then four times seven signs and a scale of 4 bits.
#[inline(always)]
pub(super) fn iq2_xxs(block: &[u8; 66], out: &mut [f32; BLOCK]) {
    for (k, eight) in eights(out) {
        let signs = eight_signs(signs_xxs(block, k) >> (k % 4 * 7));
        let magnitudes = &IQ2_XXS[usize::from(block[2 + 8 * (k / 4) + k % 4])];
        signed(scale2_xxs(block, k), magnitudes, signs, eight);
    }
}

/// The scale of eight `k` in `iq2_xs` and `iq2_s`, whose nibbles for each 16 are `scales`.
#[inline(always)]
pub(super) fn scale2(block: &[u8], scales: &[u8], k: usize) -> f32 {
    half(block, 0) * (0.5 + f32::from(nibble(scales, k / 2))) * 0.25
}

/// For each 8: an index of nine bits and seven signs; then the scales, 4 bits for each 16.
#[inline(always)]
pub(super) fn iq2_xs(block: &[u8; 74], out: &mut [f32; BLOCK]) {
    for (k, eight) in eights(out) {
        let code = short(block, 2 + 2 * k);
        let magnitudes = &IQ2_XS[usize::from(code & 511)];
        let signs = eight_signs(u32::from(code >> 9));
        signed(scale2(block, &block[66..], k), magnitudes, signs, eight);
    }
}

/// Lower bits of indices, eight signs for each 8, two upper bits for each 8, scales as above.
#[inline(always)]
pub(super) fn iq2_s(block: &[u8; 82], out: &mut [f32; BLOCK]) {
    for (k, eight) in eights(out) {
        let upper = usize::from(block[66 + k / 4] >> (2 * (k % 4)) & 3);
        let magnitudes = &IQ2_S[usize::from(block[2 + k]) | upper << 8];
        let scale = scale2(block, &block[74..], k);
        signed(scale, magnitudes, block[34 + k], eight);
    }
}

/// The signs of eight `k` in `iq3_xxs`, and of the others of its 32, under a scale.
#[inline(always)]
fn signs3_xxs(block: &[u8], k: usize) -> u32 {
    word(block, 66 + k / 4 * 4)
}

/// The scale of eight `k`.
#[inline(always)]
pub(super) fn scale3_xxs(block: &[u8], k: usize) -> f32 {
    above_signs(signs3_xxs(block, k), half(block, 0), 0.5)
}

/// An index for each 4; then for each 32 signs and a scale as in `iq2_xxs`.
#[inline(always)]
pub(super) fn iq3_xxs(block: &[u8; 98], out: &mut [f32; BLOCK]) {
    for (k, eight) in eights(out) {
        let indices = [block[2 + 2 * k], block[3 + 2 * k]];
        let magnitudes = indices.map(|index| IQ3_XXS[usize::from(index)]);
        let signs = eight_signs(signs3_xxs(block, k) >> (k % 4 * 7));
        let scale = scale3_xxs(block, k);
        signed(scale, magnitudes.as_flattened(), signs, eight);
    }
}

/// The scale of eight `k`.
#[inline(always)]
pub(super) fn scale3(block: &[u8], k: usize) -> f32 {
    half(block, 0) * (1.0 + 2.0 * f32::from(nibble(&block[106..], k / 4)))
}

/// Lower bits of an index for each 4, the ninth bits, eight signs for each 8, 4-bit scales for each 32.
#[inline(always)]
pub(super) fn iq3_s(block: &[u8; 110], out: &mut [f32; BLOCK]) {
    for (k, eight) in eights(out) {
        let magnitudes = [2 * k, 2 * k + 1].map(|l| {
            let upper = usize::from(block[66 + l / 8] >> (l % 8) & 1);
            IQ3_S[usize::from(block[2 + l]) | upper << 8]
        });
        let scale = scale3(block, k);
        signed(scale, magnitudes.as_flattened(), block[74 + k], eight);
    }
}

/// Ternary values times a scale, after a shift of an eighth.
#[inline(always)]
fn shifted(scale: f32, values: &[i8; 8], down: bool, out: &mut [f32; 8]) {
    let shift = if down { -0.125 } else { 0.125 };
    for (to, value) in out.iter_mut().zip(values) {
        *to = scale * (f32::from(*value) + shift);
    }
}

/// The bits above the indices of eight `k` and of the others of its 32.
#[inline(always)]
fn upper1(block: &[u8], k: usize) -> u16 {
    short(block, 34 + k / 4 * 2)
}

/// The scale of eight `k`.
#[inline(always)]
pub(super) fn scale1(block: &[u8], k: usize) -> f32 {
    half(block, 0) * (2.0 * f32::from(upper1(block, k) >> 12 & 7) + 1.0)
}

/// Lower bits of indices; then for each 32 four times three upper bits, a scale of three bits and the direction of the
/// shift.
#[inline(always)]
pub(super) fn iq1_s(block: &[u8; 50], out: &mut [f32; BLOCK]) {
    for (k, eight) in eights(out) {
        let upper = upper1(block, k);
        let index = u16::from(block[2 + k]) | (upper >> (k % 4 * 3) & 7) << 8;
        let values = &IQ1[usize::from(index)];
        shifted(scale1(block, k), values, upper >> 15 == 1, eight);
    }
}

/// The scale of eight `k`: three bits of one of four words, whose upper nibbles are `d`.
#[inline(always)]
pub(super) fn scale1_m(block: &[u8], k: usize) -> f32 {
    let scales: [u16; 4] = core::array::from_fn(|k| short(block, 48 + 2 * k));
    let bits = (0..4).fold(0, |bits, k| bits | scales[k] >> 12 << (4 * k));
    let scale = scales[k / 8] >> (k / 2 % 4 * 3) & 7;
    widen_f16(bits) * (2.0 * f32::from(scale) + 1.0)
}

/// Lower bits of indices; a nibble for each 8, three upper bits and the direction of the shift; scales for each 16.
#[inline(always)]
pub(super) fn iq1_m(block: &[u8; 56], out: &mut [f32; BLOCK]) {
    for (k, eight) in eights(out) {
        let upper = nibble(&block[32..48], k);
        let index = usize::from(block[k]) | usize::from(upper & 7) << 8;
        shifted(scale1_m(block, k), &IQ1[index], upper & 8 != 0, eight);
    }
}
