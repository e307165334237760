//! The device half of choosing 4-bit codes.
//!
//! The units of a block share it in runs of eight weights, and find its largest magnitude by shuffles where the device
//! has them. Codes are found by one product and one table of bins: a bin is wide enough to hold at most one bound, so
//! that its bound decides between two codes. Blocks in which a device might compute something else than the host (a
//! huge or tiny scale, none at all, the partial last block) take the same way with products and quotients of
//! [`exact`].
//!
//! No shared memory: CubeCL 0.11.3 gives drivers without `VK_KHR_workgroup_memory_explicit_layout` SPIR-V that
//! crashes them.

use cubecl::{client::Client, prelude::*};

use super::FLOOR;
use super::levels::LevelTable;
use crate::arith::exact;
use crate::arith::float::DType;
use crate::arith::float::pack_cube::{
    RUN, Sharing, largest_at_end, largest_of_share, largest_together, one_row, plane, read_one,
    read_run,
};
use crate::arith::launch::{self, Buffer};
use crate::arith::pack::CODES4;

/// Bins of either sign.
const BINS: usize = 16;

/// A magnitude times this, rounded to the nearest whole number, is its bin: the last one for 1.
const BINS_PER_UNIT: f32 = 15.25;

/// Adding this rounds a value between 0 and 2^22 to a whole number, which is then in the lowest bits.
const WHOLE: f32 = 8_388_608.0;

/// Words of each of the table's two columns.
const COLUMN: usize = 2 * BINS;

/// Where the second code of a word begins.
const ABOVE: u32 = 16;

/// For each bin, first of positive and then of other weights: the largest magnitude (as bits) that gets the first
/// code; then, for each bin, that code and the one above.
fn table<L: LevelTable>() -> [u32; 2 * COLUMN] {
    let mut table = [0; 2 * COLUMN];
    for (side, sign) in [1.0, -1.0].into_iter().enumerate() {
        // From the level next to 0 outwards. On the positive side that is the level right above 0.
        let mut code = u32::from(L::TABLE.code(sign * f32::MIN_POSITIVE));
        for bin in 0..BINS {
            let bound = L::BOUNDS
                .into_iter()
                .find(|bound| bound * sign > 0.0 && self::bin(bound.abs()) == bin);
            let (row, below) = (side * BINS + bin, code);
            table[row] = f32::INFINITY.to_bits();
            if let Some(bound) = bound {
                code = L::TABLE.code(sign * bound.abs().next_up()).into();
                // A weight in the middle takes the lower code: the one further from 0 where it is negative.
                table[row] = bound.abs().to_bits() - side as u32;
            }
            table[COLUMN + row] = below | code << ABOVE;
        }
    }
    table
}

/// The bin of a scaled magnitude. The kernel finds the same one, except where rounding moves a value over an edge.
fn bin(magnitude: f32) -> usize {
    (magnitude * BINS_PER_UNIT).round_ties_even() as usize
}

/// The code of a scaled weight, of which `positive` says whether it is above 0.
#[cube]
fn code(scaled: u32, positive: bool, table: &[u32]) -> u32 {
    let magnitude = scaled & 0x7fff_ffffu32;
    let near = f32::reinterpret(magnitude) * BINS_PER_UNIT + WHOLE;
    let side = select(positive, 0u32, comptime!(BINS as u32));
    let row = ((u32::reinterpret(near) & comptime!(BINS as u32 - 1)) | side) as usize;
    let codes = table[row + COLUMN];
    (codes >> select(magnitude > table[row], ABOVE, 0u32)) & 15u32
}

/// The code of a weight in a block where a device might multiply or divide wrongly.
#[cube]
fn unsafe_code(weight: u32, by: u32, full: bool, #[comptime] last: u32, table: &[u32]) -> u32 {
    let mut scaled = exact::mul(weight, by);
    if !full {
        scaled = exact::div(weight, by);
    }
    let nan = (scaled & !exact::SIGN) > exact::INFINITY;
    let positive = scaled != 0u32 && scaled < exact::SIGN;
    select(nan, last, code(select(nan, 0u32, scaled), positive, table))
}

/// The smallest positive weight, as bits, whose product with the scale's reciprocal `factor` does not round to 0.
#[cube]
fn smallest_kept(largest: u32, factor: u32) -> u32 {
    let mut kept = 1u32;
    if largest > comptime!(1f32.to_bits()) {
        // Above `2^-150 / factor`, which is near `largest * 2^-150`, less a few steps.
        let half = comptime!((127u32 - 75) << 23);
        let near = exact::mul(exact::mul(largest, half), half);
        kept = near.max(3u32) - 2u32;
        while exact::mul(kept, factor) == 0u32 {
            kept += 1u32;
        }
    }
    kept
}

/// The scale that is stored for a block.
#[cube]
fn scale(largest: u32, full: bool) -> u32 {
    select(full, largest, divisor(largest))
}

/// The divisor of a block's weights, which are divided by it or multiplied by its reciprocal.
#[cube]
fn divisor(largest: u32) -> u32 {
    let floor = comptime!(FLOOR.to_bits());
    select(largest < floor, floor, largest)
}

/// Scales of blocks, one unit each: for devices whose units cannot exchange values.
#[cube(launch)]
fn scales_kernel<N: Size>(
    source: &[Vector<u32, N>],
    scales: &mut [u32],
    total: u32,
    block: u32,
    #[comptime] of: DType,
) {
    let (n, block) = (total as usize, block as usize);
    if ABSOLUTE_POS < scales.len() {
        let first = ABSOLUTE_POS * block;
        let count = (n - first).min(block);
        let whole = count / RUN * RUN;
        let runs = one_row(first, whole);
        let sharing = comptime!(Sharing::of_runs(of));
        let mut largest = largest_of_share::<N>(source, &runs, 0usize, 1usize, sharing);
        if whole < count {
            largest = largest.max(largest_at_end::<N>(
                source,
                first + whole,
                count - whole,
                of,
            ));
        }
        scales[ABSOLUTE_POS] = scale(largest, count == block);
    }
}

/// The facts that a kernel is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Build {
    source: DType,
    /// Runs of a unit.
    runs: usize,
    /// Whether the units of a block find its scale together; else it is there.
    together: bool,
    /// The code of NaN.
    nan: u32,
    /// Whether a code begins at 0, so that a product that a device takes for 0 matters.
    splits_zero: bool,
}

impl Build {
    const fn sharing(self) -> Sharing {
        Sharing {
            each: self.runs,
            ..Sharing::of_runs(self.source)
        }
    }
}

/// Codes of blocks, `2^units_log2` units each.
#[cube(launch)]
fn codes_kernel<N: Size>(
    source: &[Vector<u32, N>],
    table: &[u32],
    words: &mut [u32],
    scales: &mut [u32],
    total: u32,
    units_log2: u32,
    #[comptime] build: Build,
) {
    let n = total as usize;
    let units = 1usize << units_log2 as usize;
    let k = ABSOLUTE_POS >> units_log2 as usize;
    let place = ABSOLUTE_POS & (units - 1);
    let block = units * comptime!(build.runs * RUN);
    let first_of_block = k * block;
    let full = first_of_block + block <= n;

    let mut largest = 0u32;
    if comptime!(build.together) {
        if full {
            let weights = one_row(first_of_block, block);
            largest =
                largest_of_share::<N>(source, &weights, place, units, comptime!(build.sharing()));
        } else if first_of_block < n && place == 0 {
            largest = largest_at_end::<N>(source, first_of_block, n - first_of_block, build.source);
        }
        largest = largest_together(largest, units as u32, true);
        if place == 0 && first_of_block < n {
            scales[k] = scale(largest, full);
        }
    } else if first_of_block < n {
        largest = scales[k];
    }

    if first_of_block < n {
        // From 2^-100 to 2^126: only the sign of a subnormal value matters then.
        let safe = full && largest - (27u32 << 23u32) <= comptime!(226u32 << 23);
        let divisor = divisor(largest);
        let factor = exact::div(comptime!(1f32.to_bits()), divisor);
        let mut kept = 1u32;
        if comptime!(build.splits_zero) && safe {
            kept = smallest_kept(largest, factor);
        }
        #[unroll(build.runs <= 2)]
        for run in 0..build.runs {
            let first = first_of_block + (run * units + place) * RUN;
            let mut word = 0u32;
            if safe {
                let weights = read_run::<N>(source, first, build.source);
                #[unroll]
                for k in 0..RUN {
                    let weight = *weights.index(k);
                    let scaled =
                        u32::reinterpret(f32::reinterpret(weight) * f32::reinterpret(factor));
                    let positive = weight < exact::SIGN && weight >= kept;
                    word |= code(scaled, positive, table) << comptime!(4 * k as u32);
                }
            } else if first < n {
                // No loop unrolled, as it is next to never taken.
                let by = select(full, factor, divisor);
                for k in 0..(n - first).min(RUN) {
                    let weight = read_one::<N>(source, first + k, build.source);
                    word |= unsafe_code(weight, by, full, build.nan, table) << (4u32 * k as u32);
                }
            }
            if first < n {
                words[first / RUN] = word;
            }
        }
    }
}

/// Words, and the largest magnitude of each block, of `n` weights from the beginning of a block on.
pub(crate) fn quantize<L: LevelTable>(
    client: &Client,
    block: usize,
    n: usize,
    source: DType,
    bytes: &Buffer,
) -> (Buffer, Buffer) {
    let words = Buffer::empty(client, n.div_ceil(CODES4), 4);
    let scales = Buffer::empty(client, n.div_ceil(block), 4);
    if n == 0 {
        return (words, scales);
    }
    let vector = source.vector(n);
    let plane = plane(client);
    let mut units = block / (2 * RUN);
    if let Some(most) = plane {
        units = units.min(most);
    } else {
        let (count, dim) = launch::grid(client, scales.len());
        scales_kernel::launch(
            client,
            count,
            dim,
            vector,
            bytes.arg(vector),
            scales.arg(1),
            launch::count(n),
            launch::count(block),
            source,
        );
    }
    let build = Build {
        source,
        runs: block / (RUN * units),
        together: plane.is_some(),
        nan: L::ASCENDING[15].into(),
        splits_zero: L::BOUNDS.contains(&0.0),
    };
    let (count, dim) = launch::grid(client, n.div_ceil(block) * units);
    codes_kernel::launch(
        client,
        count,
        dim,
        vector,
        bytes.arg(vector),
        Buffer::upload(client, &table::<L>()).arg(1),
        words.arg(1),
        scales.arg(1),
        launch::count(n),
        units.ilog2(),
        build,
    );
    (words, scales)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::bits4::levels::{Fp4, Nf4};

    #[test]
    fn a_bin_holds_one_bound() {
        check_bins::<Nf4>();
        check_bins::<Fp4>();
    }

    /// A bound that shares its bin, or lies so near an edge that rounding decides about the bin, fails here.
    fn check_bins<L: LevelTable>() {
        assert!(bin(1f32.next_up()) < BINS);
        for side in [1.0, -1.0] {
            let bounds = L::BOUNDS.into_iter().map(|bound| bound * side);
            let mut bins: Vec<usize> = Vec::new();
            for bound in bounds.filter(|bound| *bound > 0.0) {
                let place = f64::from(bound) * f64::from(BINS_PER_UNIT);
                assert!((place - place.round()).abs() < 0.49, "{} {bound}", L::NAME);
                assert!(!bins.contains(&bin(bound)), "{} {bound}", L::NAME);
                bins.push(bin(bound));
            }
        }
    }
}
