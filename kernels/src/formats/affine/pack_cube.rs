//! The device half of choosing affine codes.
//!
//! A unit has 32 weights, whose codes are whole words, and reads them once; the units of a group find its range by
//! shuffles where the device has them. Scale and bias are computed with [`exact`], by every unit of the group.
//!
//! A code is a quotient, rounded to a whole number. The product with the scale's reciprocal is so near the quotient
//! that it tells the code, but for quotients next to the middle between two codes: those few are divided. A group
//! with a NaN or with magnitudes that a device might get wrong is divided as a whole.

use cubecl::{client::Client, ir::features::Plane, prelude::*};

use super::{SMALLEST_STEP, mlx_format};
use crate::arith::exact;
use crate::arith::float::DType;
use crate::arith::float::pack_cube::{RUN, read_one, read_run};
use crate::arith::launch::{self, Buffer, rounded};
use crate::arith::pack::STREAM;
use crate::format::Format;

/// Runs of a unit's weights.
const RUNS: usize = STREAM / RUN;

/// In this order of bits, where a number is larger than another its bits are, as whole numbers.
///
/// NaN lies outside: with the sign bit below negative infinity, without it above infinity. And -0 is below 0, which
/// changes no scale and no bias.
#[cube]
fn ordered(bits: u32) -> u32 {
    bits ^ select(bits >= exact::SIGN, 0xffff_ffffu32, exact::SIGN)
}

/// The inverse of [`ordered`].
#[cube]
fn disordered(key: u32) -> u32 {
    key ^ select(key >= exact::SIGN, exact::SIGN, 0xffff_ffffu32)
}

/// [`ordered`] negative infinity: keys below are NaN.
const LOWEST: u32 = !f32::NEG_INFINITY.to_bits();

/// [`ordered`] infinity: keys above are NaN.
const HIGHEST: u32 = f32::INFINITY.to_bits() | exact::SIGN;

/// A number on bits rounded to a whole one, ties to even; NaN and infinities as they are.
#[cube]
fn whole(bits: u32) -> u32 {
    let magnitude = bits & !exact::SIGN;
    // From 2^23 on every number is whole; a quarter and less have nothing left after 25 bits.
    let exponent = (magnitude >> 23u32).clamp(125u32, 149u32);
    let cut = 150u32 - exponent;
    let fraction = (magnitude & 0x7f_ffffu32) | 0x80_0000u32;
    let odd = (fraction >> cut) & 1u32;
    let steps = (fraction + (1u32 << (cut - 1u32)) - 1u32 + odd) >> cut;
    let rounded = u32::reinterpret(f32::cast_from(steps)) | (bits & exact::SIGN);
    select(
        magnitude >= comptime!(150u32 << 23),
        bits,
        select(magnitude < comptime!(125u32 << 23), 0u32, rounded),
    )
}

/// Scale and bias, as bits, of a group between two numbers, neither of which is NaN.
#[cube]
fn scaling(min: u32, max: u32, #[comptime] bits: usize) -> (u32, u32) {
    let largest = comptime!(largest(bits).to_bits());
    let floor = comptime!(SMALLEST_STEP.to_bits());
    let step = exact::div(exact::add(max, min ^ exact::SIGN), largest);
    // NaN and negative steps get the floor as well.
    let step = select(step < floor || step > exact::INFINITY, floor, step);
    let down = (min & !exact::SIGN) > (max & !exact::SIGN);
    let edge = select(down, min, max);
    let scale = select(down, step, step | exact::SIGN);
    // The code of 0, which is then bent to be whole.
    let zero = whole(exact::div(edge, scale));
    let bent = exact::div(edge, zero);
    let bent = select((bent & !exact::SIGN) > exact::INFINITY, NAN, bent);
    let is_zero = (zero & !exact::SIGN) == 0u32;
    (select(is_zero, scale, bent), select(is_zero, 0u32, edge))
}

/// The NaN that is stored.
const NAN: u32 = f32::NAN.to_bits();

/// The largest code.
const fn largest(bits: usize) -> f32 {
    ((1u32 << bits) - 1) as f32
}

/// The bits of a number rounded to a type, 16-bit ones in the low half.
#[cube]
fn stored(bits: u32, #[comptime] to: DType) -> u32 {
    match to {
        DType::F32 => bits,
        DType::Bf16 => exact::round_bf16(bits) >> 16u32,
        DType::F16 => {
            let rounded = exact::round_f16(bits);
            let magnitude = rounded & !exact::SIGN;
            let special = 0x7c00u32 | ((magnitude >> 13u32) & 0x3ffu32);
            // A subnormal f16 counts steps of 2^-24.
            let step = comptime!(f32::from_bits((127 + 24) << 23));
            let small = magnitude < comptime!(113u32 << 23);
            let steps = f32::reinterpret(select(small, magnitude, 0u32)) * step;
            let normal = (magnitude >> 13u32) - select(small, 0u32, comptime!(112u32 << 10));
            let finite = select(small, u32::cast_from(steps), normal);
            (rounded >> 16u32 & 0x8000u32) | select(magnitude >= exact::INFINITY, special, finite)
        }
    }
}

/// The code of a weight under any scale: the nearest, a tie to the even one, 0 for NaN.
#[cube]
fn exact_code(weight: u32, scale: u32, bias: u32, #[comptime] bits: usize) -> u32 {
    let largest = comptime!(largest(bits).to_bits());
    let code = exact::div(exact::add(weight, bias ^ exact::SIGN), scale);
    // Negative ones and NaN.
    let code = select(code > exact::INFINITY, 0u32, code.min(largest));
    u32::cast_from(f32::reinterpret(whole(code)))
}

/// Smallest and largest [`ordered`] weight of a group without its NaN, read one by one, as it is next to never
/// needed; infinities the wrong way round if nothing is left.
#[cube]
fn range_without_nan<N: Size>(
    source: &[Vector<u32, N>],
    first: usize,
    count: usize,
    #[comptime] of: DType,
) -> (u32, u32) {
    let (mut min, mut max) = (HIGHEST.runtime(), LOWEST.runtime());
    for k in 0..count {
        let weight = read_one::<N>(source, first + k, of);
        if (weight & !exact::SIGN) <= exact::INFINITY {
            min = min.min(ordered(weight));
            max = max.max(ordered(weight));
        }
    }
    (min, max)
}

/// A unit's weights, from `first` on.
#[cube]
fn read<N: Size>(source: &[Vector<u32, N>], first: usize, #[comptime] of: DType) -> Sequence<u32> {
    let mut weights = Sequence::<u32>::new();
    #[unroll]
    for run in 0..RUNS {
        let eight = read_run::<N>(source, first + run * RUN, of);
        #[unroll]
        for k in 0..RUN {
            weights.push(*eight.index(k));
        }
    }
    weights
}

/// Codes in fixed point have this many bits after the point: a code of 8 bits leaves 15 of an `f32`'s 23.
const AFTER: u32 = 15;

/// Half a code in fixed point.
const HALF: u32 = 1 << (AFTER - 1);

/// How far from a middle a quotient of the device may be for its code not to be sure. The reciprocal and the product
/// are each off by 2^-24 of up to 2^8, and fixed point by half a step: 1.5 steps, and the host's own quotient is off
/// by a quarter.
const UNSURE: u32 = 4;

/// Smallest and largest [`ordered`] weight of a group of `units` units, of which this one has `weights`.
#[cube]
fn range_of_group<N: Size>(
    source: &[Vector<u32, N>],
    weights: &Sequence<u32>,
    first_of_group: usize,
    units: usize,
    #[comptime] of: DType,
    #[comptime] together: bool,
) -> (u32, u32) {
    let key = ordered(*weights.index(0usize));
    let (mut min, mut max) = (key, key);
    #[unroll]
    for k in 1..STREAM {
        let key = ordered(*weights.index(k));
        min = min.min(key);
        max = max.max(key);
    }
    if together {
        let mut apart = 1u32;
        while apart < units as u32 {
            min = min.min(plane_shuffle_xor(min, apart));
            max = max.max(plane_shuffle_xor(max, apart));
            apart *= 2u32;
        }
    } else {
        for run in 0..units * RUNS {
            let eight = read_run::<N>(source, first_of_group + run * RUN, of);
            #[unroll]
            for k in 0..RUN {
                let key = ordered(*eight.index(k));
                min = min.min(key);
                max = max.max(key);
            }
        }
    }
    (min, max)
}

/// Writes scale and bias of a group, rounded to the type of the weight.
#[cube]
fn store_params(scales: &mut [u32], group: usize, scale: u32, bias: u32, #[comptime] of: DType) {
    if comptime!(matches!(of, DType::F32)) {
        scales[2 * group] = scale;
        scales[2 * group + 1] = bias;
    } else {
        scales[group] = (stored(bias, of) << 16u32) | stored(scale, of);
    }
}

/// Words of codes, which `base` is the first of.
#[cube]
fn store_codes(words: &mut [u32], base: usize, codes: &Sequence<u32>, #[comptime] bits: usize) {
    #[unroll]
    for w in 0..bits {
        let mut word = 0u32;
        #[unroll]
        for k in comptime!(32 * w / bits)..comptime!((32 * w + 32).div_ceil(bits)) {
            let code = *codes.index(k);
            if comptime!(bits * k >= 32 * w) {
                word |= code << comptime!((bits * k - 32 * w) as u32);
            } else {
                word |= code >> comptime!((32 * w - bits * k) as u32);
            }
        }
        words[base + w] = word;
    }
}

/// Codes and, on the way, scales and biases: `2^units_log2` units for each group.
#[cube(launch)]
fn codes_kernel<N: Size>(
    source: &[Vector<u32, N>],
    words: &mut [u32],
    scales: &mut [u32],
    streams: u32,
    units_log2: u32,
    zero: u32,
    #[comptime] of: DType,
    #[comptime] bits: usize,
    #[comptime] together: bool,
) {
    let units = 1usize << units_log2 as usize;
    // Surplus units compute the same as the last one, so that all of them meet in shuffles, and write nothing.
    let stream = ABSOLUTE_POS.min(streams as usize - 1);
    let place = stream & (units - 1);
    let first = stream * STREAM;
    let first_of_group = (stream - place) * STREAM;

    let weights = read::<N>(source, first, of);
    let (mut min, mut max) =
        range_of_group::<N>(source, &weights, first_of_group, units, of, together);

    if ABSOLUTE_POS < streams as usize {
        let nan = min < LOWEST || max > HIGHEST;
        if nan {
            let (low, high) = range_without_nan::<N>(source, first_of_group, units * STREAM, of);
            min = low;
            max = high;
        }
        let (min, max) = (disordered(min), disordered(max));
        let (scale, bias) = scaling(min, max, bits);
        if place == 0 {
            store_params(scales, stream >> units_log2 as usize, scale, bias, of);
        }

        // No bias but 0 is smaller than half the smallest step, and then no scale is smaller than that either: below
        // 2^100 every difference and product is right, or too small to matter.
        let largest_magnitude = (min & !exact::SIGN).max(max & !exact::SIGN);
        let base = stream * bits;
        let mut unsure = 0xffff_ffffu32;
        if !nan && largest_magnitude < comptime!(227u32 << 23) {
            unsure = 0u32;
            let factor = f32::reinterpret(exact::div(comptime!(1f32.to_bits()), scale));
            let bias = f32::reinterpret(bias);
            let mut codes = Sequence::<u32>::new();
            #[unroll]
            for k in 0..STREAM {
                let above = rounded(f32::reinterpret(*weights.index(k)) - bias, zero);
                let code = (above * factor).max(0.0f32).min(comptime!(largest(bits)));
                // Next to 256 an `f32` steps by 2^-15.
                let fixed = u32::reinterpret(code + 256.0f32) & 0x7f_ffffu32;
                let off = (fixed & comptime!(2 * HALF - 1)) - comptime!(HALF - UNSURE);
                let sure = off > comptime!(2 * UNSURE);
                unsure |= select(sure, 0u32, comptime!(1u32 << k));
                codes.push(select(sure, (fixed + HALF) >> AFTER, 0u32));
            }
            store_codes(words, base, &codes, bits);
        } else {
            #[unroll]
            for w in 0..bits {
                words[base + w] = 0u32;
            }
        }

        while unsure != 0u32 {
            let k = 31u32 - unsure.leading_zeros();
            unsure ^= 1u32 << k;
            let weight = read_one::<N>(source, first + k as usize, of);
            let code = exact_code(weight, scale, bias, bits);
            let at = k * comptime!(bits as u32);
            let (word, shift) = (base + (at / 32u32) as usize, at % 32u32);
            words[word] |= code << shift;
            if shift + comptime!(bits as u32) > 32u32 {
                words[word + 1] |= code >> (32u32 - shift);
            }
        }
    }
}

/// Words, and scales and biases of each group, of a tile of `shape` `[rows, i]`.
///
/// # Panics
///
/// When a format of such codes does not exist or cannot have such rows.
pub(crate) fn quantize(
    client: &Client,
    bits: usize,
    group: usize,
    shape: [usize; 2],
    source: DType,
    bytes: &Buffer,
) -> (Buffer, Buffer) {
    let affine = mlx_format(shape, source, bits, group).unwrap_or_else(|error| panic!("{error}"));
    let format = Format::Affine(affine);
    let n = shape[0] * shape[1];
    let words = Buffer::empty(client, format.words_len(shape), 4);
    let scales = Buffer::empty(client, format.scales_len(shape), 4);
    if n == 0 {
        return (words, scales);
    }
    let vector = source.vector(n);
    let properties = client.properties();
    let units = group / STREAM;
    let together = properties.features.plane.contains(Plane::Ops)
        && properties.hardware.plane_size_min as usize >= units;
    let (count, dim) = launch::grid(client, n / STREAM);
    codes_kernel::launch(
        client,
        count,
        dim,
        vector,
        bytes.arg(vector),
        words.arg(1),
        scales.arg(1),
        launch::count(n / STREAM),
        units.ilog2(),
        0,
        source,
        bits,
        together,
    );
    (words, scales)
}
