//! The device half of reading source weights: their bytes as words, widened to the bits of `f32`.

use cubecl::{client::Client, ir::features::Plane, prelude::*};

use super::DType;
use crate::arith::launch::{self, Buffer};

/// Weights that a unit reads at a time.
pub(crate) const RUN: usize = 8;

impl DType {
    /// Words of `n` weights, the last one padded.
    pub(crate) const fn words(self, n: usize) -> usize {
        (n * self.size()).div_ceil(4)
    }

    /// How many words of `n` weights a kernel reads at once: 4 where they divide, else 1.
    pub(crate) const fn vector(self, n: usize) -> usize {
        if self.words(n).is_multiple_of(4) {
            4
        } else {
            1
        }
    }
}

/// The weights from `first` on, a multiple of [`RUN`], as bits of `f32`.
#[cube]
pub(crate) fn read_run<N: Size>(
    source: &[Vector<u32, N>],
    first: usize,
    #[comptime] of: DType,
) -> Sequence<u32> {
    let vector = N::value();
    let vectors = comptime!(RUN * of.size() / 4 / vector);
    let mut weights = Sequence::<u32>::new();
    #[unroll]
    for v in 0..vectors {
        let words = source[first / comptime!(4 * vector / of.size()) + v];
        #[unroll]
        for w in 0..vector {
            let word = words.extract(w);
            #[unroll]
            for p in 0..comptime!(4 / of.size()) {
                weights.push(widen(word, p, of));
            }
        }
    }
    weights
}

/// The weight `k`, as bits of `f32`: few instructions, for rare cases.
#[cube]
pub(crate) fn read_one<N: Size>(source: &[Vector<u32, N>], k: usize, #[comptime] of: DType) -> u32 {
    let vector = N::value();
    let per_word = comptime!(4 / of.size());
    let at = k / per_word;
    let words = source[at / vector];
    let mut word = words.extract(0usize);
    #[unroll]
    for w in 1..vector {
        if at % vector == w {
            word = words.extract(w);
        }
    }
    let mut weight = widen(word, 0usize, of);
    if comptime!(per_word == 2) && k % 2 == 1 {
        weight = widen(word, 1usize, of);
    }
    weight
}

/// The largest magnitude, as bits, among `count` weights from `first` on. They are read one by one: for the end of a
/// weight.
#[cube]
pub(crate) fn largest_at_end<N: Size>(
    source: &[Vector<u32, N>],
    first: usize,
    count: usize,
    #[comptime] of: DType,
) -> u32 {
    let mut largest = 0u32;
    for k in 0..count {
        largest = largest.max(read_one::<N>(source, first + k, of) & 0x7fff_ffffu32);
    }
    largest
}

/// The largest magnitude, as bits, of a run of weights.
#[cube]
pub(crate) fn largest_of_run<N: Size>(
    source: &[Vector<u32, N>],
    first: usize,
    #[comptime] of: DType,
) -> u32 {
    let weights = read_run::<N>(source, first, of);
    let mut largest = 0u32;
    #[unroll]
    for k in 0..RUN {
        largest = largest.max(*weights.index(k) & 0x7fff_ffffu32);
    }
    largest
}

/// A block of weights: `rows` rows of `cols` weights, `stride` weights apart, from weight `first` on.
#[derive(CubeType, Clone, Copy)]
pub(crate) struct BlockRows {
    pub(crate) first: usize,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) stride: usize,
}

/// A block of `count` weights one after another.
#[cube]
pub(crate) fn one_row(first: usize, count: usize) -> BlockRows {
    BlockRows {
        first,
        rows: 1usize,
        cols: count,
        stride: 0usize,
    }
}

/// How units share a block, known when a kernel is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Sharing {
    pub(crate) source: DType,
    /// Whether rows are whole runs; else they are read weight by weight.
    pub(crate) runs: bool,
    /// Whether there is one row.
    pub(crate) one_row: bool,
    /// Runs of a unit, all there; 0 where the kernel does not know how many.
    pub(crate) each: usize,
}

impl Sharing {
    /// Blocks of one row of whole runs.
    pub(crate) const fn of_runs(source: DType) -> Self {
        Self {
            source,
            runs: true,
            one_row: true,
            each: 0,
        }
    }
}

/// The largest magnitude, as bits, in a unit's share of a block: every run that is a multiple of `units` runs after the
/// one at its `place`. NaN is larger than all numbers. [`largest_together`] joins the shares.
#[cube]
pub(crate) fn largest_of_share<N: Size>(
    source: &[Vector<u32, N>],
    block: &BlockRows,
    place: usize,
    units: usize,
    #[comptime] sharing: Sharing,
) -> u32 {
    let of = comptime!(sharing.source);
    let mut largest = 0u32;
    if comptime!(sharing.each > 0) {
        #[unroll(sharing.each <= 2)]
        for run in 0..sharing.each {
            let first = block.first + (run * units + place) * RUN;
            largest = largest.max(largest_of_run::<N>(source, first, of));
        }
    } else {
        let size = comptime!(if sharing.runs { RUN } else { 1 });
        let across = block.cols / size;
        let mut count = across;
        if comptime!(!sharing.one_row) {
            count = block.rows * across;
        }
        for k in range_stepped(place, count, units) {
            let mut first = block.first + k * size;
            if comptime!(!sharing.one_row) {
                first = block.first + k / across * block.stride + k % across * size;
            }
            if comptime!(sharing.runs) {
                largest = largest.max(largest_of_run::<N>(source, first, of));
            } else {
                largest = largest.max(read_one::<N>(source, first, of) & 0x7fff_ffffu32);
            }
        }
    }
    largest
}

/// The largest of the magnitudes that `units` neighbouring units found, a power of two within a plane. Without `together`
/// each unit keeps its own.
#[cube]
pub(crate) fn largest_together(found: u32, units: u32, #[comptime] together: bool) -> u32 {
    let mut largest = found;
    if together {
        let mut apart = 1u32;
        while apart < units {
            largest = largest.max(plane_shuffle_xor(largest, apart));
            apart *= 2u32;
        }
    }
    largest
}

/// How many units can exchange values without shared memory, a power of two; none where a device has no such thing.
pub(crate) fn plane(client: &Client) -> Option<usize> {
    let properties = client.properties();
    let units = properties.hardware.plane_size_min;
    let has = properties.features.plane.contains(Plane::Ops) && units >= 2;
    has.then(|| 1 << units.ilog2())
}

/// Weight `p` of a word.
#[cube]
pub(crate) fn widen(word: u32, #[comptime] p: usize, #[comptime] of: DType) -> u32 {
    match comptime!((of, p)) {
        (DType::F32, _) => word,
        (DType::Bf16, 0) => word << 16u32,
        (DType::Bf16, _) => word & 0xffff_0000u32,
        (DType::F16, 0) => widen_f16(word & 0xffffu32),
        (DType::F16, _) => widen_f16(word >> 16u32),
    }
}

/// The value of an f16, as bits of `f32`.
#[cube]
fn widen_f16(half: u32) -> u32 {
    let magnitude = half & 0x7fffu32;
    let normal = (magnitude << 13u32) + (112u32 << 23u32);
    let normal = normal | select(magnitude >= 0x7c00u32, 0x7f80_0000u32, 0u32);
    // Subnormals count steps of 2^-24: exact, and normal as an f32.
    let subnormal =
        u32::reinterpret(f32::cast_from(magnitude) * comptime!(f32::from_bits(103 << 23)));
    ((half & 0x8000u32) << 16u32) | select(magnitude < 0x400u32, subnormal, normal)
}

/// Each unit the largest magnitude among its runs, which lie as far apart as there are units.
#[cube(launch)]
fn absmax_kernel<N: Size>(
    source: &[Vector<u32, N>],
    maxima: &mut [u32],
    total: u32,
    #[comptime] of: DType,
) {
    let n = total as usize;
    let units = maxima.len();
    if ABSOLUTE_POS < units {
        let whole = n / RUN;
        let runs = one_row(0usize, whole * RUN);
        let sharing = comptime!(Sharing::of_runs(of));
        let mut largest = largest_of_share::<N>(source, &runs, ABSOLUTE_POS, units, sharing);
        if ABSOLUTE_POS == whole % units {
            let end = largest_at_end::<N>(source, whole * RUN, n % RUN, of);
            largest = largest.max(end);
        }
        maxima[ABSOLUTE_POS] = largest;
    }
}

/// Units that read a large buffer at the same time.
const MANY: usize = 1 << 16;

/// Runs that a unit reads at least.
const RUNS: usize = 8;

/// One word: the bits of the largest magnitude among `n` weights. NaN is larger than all.
pub(crate) fn absmax(client: &Client, source: DType, n: usize, bytes: &Buffer) -> Buffer {
    if n == 0 {
        return Buffer::upload(client, &[0]);
    }
    let units = n.div_ceil(RUN * RUNS).min(MANY);
    let maxima = Buffer::empty(client, units, 4);
    let vector = source.vector(n);
    let (count, dim) = launch::grid(client, units);
    absmax_kernel::launch(
        client,
        count,
        dim,
        vector,
        bytes.arg(vector),
        maxima.arg(1),
        launch::count(n),
        source,
    );
    if units == 1 {
        return maxima;
    }
    absmax(client, DType::F32, units, &maxima)
}
