//! The device half of choosing INT8 codes: the largest magnitude of each row, then the codes.
//!
//! The units of a row share it in runs of eight weights, next to each other, so that they read next to each other. A
//! row that is no whole number of runs begins inside one, which no weight of a model does but tests do: such rows
//! are read weight by weight.
//!
//! A product is right on every device as long as nothing in it overflows or is too small to matter; a row whose
//! factor allows something else takes the same way with products of [`exact`].

use cubecl::{client::Client, prelude::*};

use crate::arith::exact;
use crate::arith::float::DType;
use crate::arith::float::pack_cube::{
    RUN, Sharing, largest_of_share, largest_together, one_row, plane, read_one, read_run,
};
use crate::arith::launch::{self, Buffer, rounded};
use crate::arith::pack::CODES8;

/// Runs that a unit has of a row, at least half of it.
const RUNS: usize = 4;

/// Next to this an `f32` steps by 1: the adder rounds, to the even one in a tie, and the low bits are the code's.
const WHOLE: f32 = 12_582_912.0;

/// The factor of a row's weights, rounding twice.
#[cube]
fn factor(largest: u32) -> u32 {
    exact::mul(
        exact::div(comptime!(1f32.to_bits()), largest),
        comptime!(127f32.to_bits()),
    )
}

/// Whether a device multiplies the weights of a row rightly, or wrongly only where the code is 0.
#[cube]
fn safe(largest: u32, factor: u32) -> bool {
    // Below 2^123 a subnormal weight has code 0. A finite magnitude has no subnormal factor.
    largest < exact::INFINITY && factor < comptime!(250u32 << 23)
}

/// The code of a weight in a row that is [`safe`]; `zero` is 0, see [`rounded`].
#[cube]
fn code(weight: u32, factor: u32, zero: u32) -> u32 {
    let scaled = rounded(f32::reinterpret(weight) * f32::reinterpret(factor), zero);
    u32::reinterpret(scaled + WHOLE) & 0xffu32
}

/// The code of a weight in any row: 0 for NaN and infinities.
#[cube]
fn exact_code(weight: u32, factor: u32) -> u32 {
    let scaled = exact::mul(weight, factor);
    let small = (scaled & !exact::SIGN) < comptime!(128f32.to_bits());
    u32::reinterpret(f32::reinterpret(select(small, scaled, 0u32)) + WHOLE) & 0xffu32
}

/// Largest magnitudes of rows, as bits, in which NaN is larger than all else; `largest` begins as zeros.
///
/// A row has `2^units_log2` units; each `joined` neighbours exchange the magnitudes that they find.
#[cube(launch)]
fn largest_kernel<N: Size>(
    source: &[Vector<u32, N>],
    largest: &mut [Atomic<u32>],
    columns: u32,
    units_log2: u32,
    joined: u32,
    #[comptime] of: DType,
    #[comptime] runs: bool,
    #[comptime] together: bool,
) {
    let columns = columns as usize;
    let units = 1usize << units_log2 as usize;
    let r = ABSOLUTE_POS >> units_log2 as usize;
    let place = ABSOLUTE_POS & (units - 1);

    let mut found = 0u32;
    if r < largest.len() {
        let sharing = comptime!(Sharing {
            runs,
            ..Sharing::of_runs(of)
        });
        found = largest_of_share::<N>(
            source,
            &one_row(r * columns, columns),
            place,
            units,
            sharing,
        );
    }
    found = largest_together(found, joined, together);
    if r < largest.len() && place & (joined as usize - 1) == 0 {
        largest[r].fetch_max(found);
    }
}

/// Codes of rows that are whole runs, `2^units_log2` units each.
#[cube(launch)]
fn runs_kernel<N: Size>(
    source: &[Vector<u32, N>],
    largest: &[u32],
    words: &mut [u32],
    columns: u32,
    units_log2: u32,
    zero: u32,
    #[comptime] of: DType,
) {
    let columns = columns as usize;
    let units = 1usize << units_log2 as usize;
    let r = ABSOLUTE_POS >> units_log2 as usize;
    if r < largest.len() {
        let factor = factor(largest[r]);
        let safe = safe(largest[r], factor);
        let mut run = ABSOLUTE_POS & (units - 1);
        while run < columns / RUN {
            let first = r * columns + run * RUN;
            let mut low = 0u32;
            let mut high = 0u32;
            if safe {
                let weights = read_run::<N>(source, first, of);
                #[unroll]
                for k in 0..CODES8 {
                    let shift = comptime!(8 * k as u32);
                    low |= code(*weights.index(k), factor, zero) << shift;
                    high |= code(*weights.index(comptime!(k + CODES8)), factor, zero) << shift;
                }
            } else {
                // No loop unrolled, as it is next to never taken.
                for k in 0..CODES8 {
                    let shift = 8u32 * k as u32;
                    low |= exact_code(read_one::<N>(source, first + k, of), factor) << shift;
                    let k = k + CODES8;
                    high |= exact_code(read_one::<N>(source, first + k, of), factor) << shift;
                }
            }
            words[first / CODES8] = low;
            words[first / CODES8 + 1] = high;
            run += units;
        }
    }
}

/// Codes of `total` weights in rows of any length, a unit for each word.
#[cube(launch)]
fn words_kernel<N: Size>(
    source: &[Vector<u32, N>],
    largest: &[u32],
    words: &mut [u32],
    total: u32,
    columns: u32,
    #[comptime] of: DType,
) {
    if ABSOLUTE_POS < words.len() {
        let first = ABSOLUTE_POS * CODES8;
        let mut word = 0u32;
        for p in 0..(total as usize - first).min(CODES8) {
            let k = first + p;
            let factor = factor(largest[k / columns as usize]);
            word |= exact_code(read_one::<N>(source, k, of), factor) << (8u32 * p as u32);
        }
        words[ABSOLUTE_POS] = word;
    }
}

/// Words, and the largest magnitude of each row, of a tile of `shape` `[rows, i]` that begins at a whole word.
pub(crate) fn quantize(
    client: &Client,
    shape: [usize; 2],
    source: DType,
    bytes: &Buffer,
) -> (Buffer, Buffer) {
    let [rows, i] = shape;
    let n = rows * i;
    let words = Buffer::empty(client, n.div_ceil(CODES8), 4);
    let largest = Buffer::zeros(client, rows, 4);
    if n == 0 {
        return (words, largest);
    }
    let vector = source.vector(n);
    let runs = i.is_multiple_of(RUN);
    let units = i.div_ceil(RUN * RUNS).next_power_of_two();
    let plane = plane(client);
    let joined = plane.map_or(1, |most| units.min(most));
    let (count, dim) = launch::grid(client, rows * units);
    largest_kernel::launch(
        client,
        count.clone(),
        dim,
        vector,
        bytes.arg(vector),
        largest.arg(1),
        launch::count(i),
        units.ilog2(),
        launch::count(joined),
        source,
        runs,
        plane.is_some(),
    );
    if runs {
        runs_kernel::launch(
            client,
            count,
            dim,
            vector,
            bytes.arg(vector),
            largest.arg(1),
            words.arg(1),
            launch::count(i),
            units.ilog2(),
            0,
            source,
        );
    } else {
        let (count, dim) = launch::grid(client, words.len());
        words_kernel::launch(
            client,
            count,
            dim,
            vector,
            bytes.arg(vector),
            largest.arg(1),
            words.arg(1),
            launch::count(n),
            launch::count(i),
            source,
        );
    }
    (words, largest)
}
