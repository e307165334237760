//! The device half of comparing.
//!
//! Every unit adds up weights a fixed distance apart, then kernels of one unit for each [`FOLD`] partial
//! sums add those up: no order depends on which unit is first, so that two runs agree to the bit.

use cubecl::{client::Client, prelude::*};

use super::{SLACK, SUMS};
use crate::arith::float::DType;
use crate::arith::float::pack_cube::widen;
use crate::arith::launch::{self, Buffer};
use crate::device::DeviceWeight;
use crate::device::read::{self, EIGHT, ScaleAndOffset, StoredBuffers};
use crate::format::{Affine, Format};
use crate::formats::{bits4, gguf};

/// Units of the first kernel at most.
const MOST_UNITS: usize = 1 << 16;

/// Partial sums that a unit adds up.
const FOLD: usize = 64;

/// Eights that are added up before they are added to others, so that none is added to all before it.
const RUN: u32 = 32;

/// Floats among the sums; counts come after.
const FLOATS: usize = 6;

/// Compares `bytes`, the source of `weight` `[o, i]` as words, with the weight.
///
/// Gives the ten words of [`Sums::from_words`](super::Sums::from_words).
///
/// # Panics
///
/// When a buffer's length does not fit the shape.
pub fn compare(client: &Client, source: DType, bytes: &Buffer, weight: &DeviceWeight) -> Buffer {
    let n = weight.shape[0] * weight.shape[1];
    assert_eq!(bytes.len(), source.words(n), "words of {n} {source:?}");
    if n == 0 {
        return Buffer::zeros(client, SUMS, 4);
    }
    let eights = read::in_eights(weight.format, weight.shape[1]);
    let (vector, runs) = if eights { (4, n / EIGHT) } else { (1, n) };
    let mut units = runs.div_ceil(RUN as usize).min(MOST_UNITS);
    let mut sums = Buffer::empty(client, SUMS * units, 4);
    let (stored, shared) = weight.stored(client);
    let (count, dim) = launch::grid(client, units);
    // SAFETY: the lengths of the buffers were compared with those that the format implies, and a unit writes its
    // own sums.
    unsafe {
        partial::launch_unchecked(
            client,
            count,
            dim,
            vector,
            stored,
            bytes.arg(vector),
            launch::count(n),
            launch::count(units),
            sums.arg(1),
            source,
            eights,
            shared,
        );
    }
    while units > 1 {
        let fewer = units.div_ceil(FOLD);
        let folded = Buffer::empty(client, SUMS * fewer, 4);
        let (count, dim) = launch::grid(client, fewer);
        // SAFETY: the buffers hold the sums of `units` and of `fewer` units.
        unsafe {
            fold::launch_unchecked(
                client,
                count,
                dim,
                sums.arg(1),
                launch::count(units),
                launch::count(fewer),
                folded.arg(1),
            );
        }
        (sums, units) = (folded, fewer);
    }
    sums
}

/// The sums of each unit, `[SUMS, units]`.
#[cube(launch_unchecked)]
fn partial<N: Size>(
    stored: &StoredBuffers,
    source: &[Vector<u32, N>],
    weights: u32,
    units: u32,
    sums: &mut [u32],
    #[comptime] of: DType,
    #[comptime] eights: bool,
    #[comptime] shared: Option<[u32; 16]>,
) {
    if comptime!(shared.is_some()) {
        let levels = bits4::cube::levels(comptime!(shared.unwrap()));
        partial_with::<N>(stored, &levels, source, weights, units, sums, of, eights);
    } else {
        partial_with::<N>(
            stored,
            &stored.levels,
            source,
            weights,
            units,
            sums,
            of,
            eights,
        );
    }
}

#[cube]
fn partial_with<N: Size>(
    stored: &StoredBuffers,
    levels: &[f32],
    source: &[Vector<u32, N>],
    weights: u32,
    units: u32,
    sums: &mut [u32],
    #[comptime] of: DType,
    #[comptime] eights: bool,
) {
    let unit = ABSOLUTE_POS;
    if unit < units as usize {
        let cols = stored.cols as usize;
        let runs = weights as usize / comptime!(if eights { EIGHT } else { 1 });
        let mut all = zeros();
        let mut k = unit;
        while k < runs {
            let mut some = zeros();
            let mut run = 0u32;
            while run < RUN && k < runs {
                let first = k * comptime!(if eights { EIGHT } else { 1 });
                let (r, c) = (first / cols, first % cols);
                let scale = read::scale(stored, r, c, first);
                let (low, high) = range(stored, &scale);
                if eights {
                    let codes = read::codes(stored, k);
                    let mut eight = zeros();
                    let size = N::value();
                    let per_word = comptime!(4 / of.size());
                    #[unroll]
                    for v in 0..comptime!(EIGHT / per_word / size) {
                        let words = source[k * comptime!(EIGHT / per_word / size) + v];
                        #[unroll]
                        for t in 0..comptime!(size * per_word) {
                            let at = comptime!(v * size * per_word + t);
                            let word = words.extract(comptime!(t / per_word));
                            let from = f32::reinterpret(widen(word, comptime!(t % per_word), of));
                            let number = read::number(&codes, at, levels, stored.format);
                            let to = read::scaled(stored, number, &scale);
                            add(&mut eight, from, to, low, high);
                        }
                    }
                    join(&mut some, &eight);
                } else {
                    let per_word = comptime!(4 / of.size());
                    let word = source[k / per_word].extract(0usize);
                    let shift = (k % per_word * 16) as u32;
                    // The first half that is left of the word, for halves.
                    let mut word = word;
                    if comptime!(per_word == 2) {
                        word = (word >> shift) & 0xffff;
                    }
                    let from = f32::reinterpret(widen(word, 0usize, of));
                    let to = read::weight(stored, levels, r, c);
                    add(&mut some, from, to, low, high);
                }
                k += units as usize;
                run += 1u32;
            }
            join(&mut all, &some);
        }
        #[unroll]
        for s in 0..SUMS {
            sums[s * units as usize + unit] = all[s];
        }
    }
}

/// Adds up the sums of up to [`FOLD`] units each, `[SUMS, units]` to `[SUMS, fewer]`.
#[cube(launch_unchecked)]
fn fold(sums: &[u32], units: u32, fewer: u32, folded: &mut [u32]) {
    let unit = ABSOLUTE_POS;
    if unit < fewer as usize {
        let mut all = zeros();
        let end = ((unit + 1) * FOLD).min(units as usize);
        let mut k = unit * FOLD;
        while k < end {
            let mut one = zeros();
            #[unroll]
            for s in 0..SUMS {
                one[s] = sums[s * units as usize + k];
            }
            join(&mut all, &one);
            k += 1;
        }
        #[unroll]
        for s in 0..SUMS {
            folded[s * fewer as usize + unit] = all[s];
        }
    }
}

/// No weights: zero bits are 0 in a float and in a count.
#[cube]
fn zeros() -> Array<u32> {
    let mut sums = Array::<u32>::new(SUMS);
    #[unroll]
    for s in 0..SUMS {
        sums[s] = 0u32;
    }
    sums
}

/// The least and the greatest that a scale can give, with the slack.
#[cube]
fn range(stored: &StoredBuffers, scale: &ScaleAndOffset) -> (f32, f32) {
    let first = read::scaled(stored, least(stored.format), scale);
    let last = read::scaled(stored, most(stored.format), scale);
    let (low, high) = match comptime!(stored.format) {
        // Its scale was the largest magnitude, before two roundings.
        Format::Int8 => (-scale.by.abs(), scale.by.abs()),
        _ => (first.min(last), first.max(last)),
    };
    // A power of two: exact, whether or not it is fused into the next operation.
    let slack = low.abs().max(high.abs()) * SLACK;
    (low - slack, high + slack)
}

/// The least number that a format scales.
#[cube]
fn least(#[comptime] format: Format) -> f32 {
    let number = comptime!(ends(format)[0]);
    number.runtime()
}

/// The greatest number that a format scales.
#[cube]
fn most(#[comptime] format: Format) -> f32 {
    let number = comptime!(ends(format)[1]);
    number.runtime()
}

/// The ends of the numbers that a format scales.
const fn ends(format: Format) -> [f32; 2] {
    match format {
        Format::Nf4(_) | Format::Fp4(_) => [-1.0, 1.0],
        Format::Fp8(kind, _) => [-kind.largest(), kind.largest()],
        Format::Affine(Affine { bits, .. }) => [0.0, ((1u32 << bits) - 1) as f32],
        Format::Int8 => [-127.0, 127.0],
        Format::Micro(micro) => [-micro.largest(), micro.largest()],
        Format::Half(half) => [-half.largest(), half.largest()],
        Format::Gguf(kind) => gguf::numbers(kind),
    }
}

/// Whether bits are those of a finite number. By bits, since compilers may assume that there is no other.
#[cube]
fn finite(value: f32) -> bool {
    (u32::reinterpret(value) & 0x7fff_ffff) < 0x7f80_0000
}

/// Adds one weight, without a branch a weight.
#[cube]
fn add(sums: &mut Array<u32>, source: f32, result: f32, low: f32, high: f32) {
    let (here, there) = (finite(source), finite(result));
    let both = here && there;
    let saturated = both && (source < low || source > high);
    let (source, result) = (select(both, source, 0.0), select(both, result, 0.0));
    let error = (source - result).abs();
    sums[0] = u32::reinterpret(f32::reinterpret(sums[0]).max(error));
    plus(sums, 1usize, error);
    plus(sums, 2usize, error * error);
    plus(sums, 3usize, source * source);
    plus(sums, 4usize, result * result);
    plus(sums, 5usize, source * result);
    sums[6] += u32::cast_from(both);
    sums[7] += u32::cast_from(saturated);
    sums[8] += u32::cast_from(!here);
    sums[9] += u32::cast_from(!there);
}

/// Adds the sums of other weights.
#[cube]
fn join(sums: &mut Array<u32>, others: &Array<u32>) {
    sums[0] = u32::reinterpret(f32::reinterpret(sums[0]).max(f32::reinterpret(others[0])));
    #[unroll]
    for s in 1..FLOATS {
        plus(sums, s, f32::reinterpret(others[s]));
    }
    #[unroll]
    for s in FLOATS..SUMS {
        sums[s] += others[s];
    }
}

/// Adds to one of the floats.
#[cube]
fn plus(sums: &mut Array<u32>, #[comptime] s: usize, value: f32) {
    sums[s] = u32::reinterpret(f32::reinterpret(sums[s]) + value);
}
