//! Products with 4-bit codes whose groups have a value for each of the sixteen: a table in a register, looked up in
//! the order that costs least, with inputs in that order too.

use crate::arith::lanes::{self, CHUNK, LANES, Lanes};
use crate::arith::pack::CODES4;
use crate::format::{Affine, Along, Format, Micro};
use crate::formats::bits4::Scales;
use crate::formats::bits4::levels::{FP4, NF4};
use crate::formats::micro::E2M1;

/// Words of a chunk.
const WORDS: usize = CHUNK / CODES4;

/// The most rows that a processor multiplies together.
const ROWS: usize = 4;

/// A weight of such codes, whose rows are whole groups and whose groups are whole chunks.
#[derive(Clone, Copy)]
pub(super) struct Fours<'a> {
    words: &'a [u32],
    scales: GroupScales<'a>,
    /// Chunks of a group.
    chunks: usize,
    /// Groups of a row.
    groups: usize,
}

/// Where the scale and the offset of a group are found.
#[derive(Clone, Copy)]
enum GroupScales<'a> {
    Blocks([f32; LANES], Scales<'a>),
    Micro(Micro, &'a [u32]),
    Affine(Affine, &'a [u32]),
}

/// Scales and offsets of a few rows, `[rows, groups]`.
#[derive(Debug, Default)]
pub(super) struct Staged {
    pub(super) scales: Vec<f32>,
    pub(super) offsets: Vec<f32>,
}

/// Values of the codes under a scale and an offset.
trait CodeValues: Copy {
    fn table<L: Lanes>(self, lanes: L, scale: f32, offset: f32) -> L::Floats;

    /// The values of half a chunk, of what was found in the table.
    #[inline(always)]
    fn values<L: Lanes>(self, _: L, found: L::Floats, _scale: f32, _offset: f32) -> L::Floats {
        found
    }
}

/// Levels of chunks of two groups; the offset is the scale of the second.
#[derive(Clone, Copy)]
struct PairedLevels([f32; LANES]);

impl CodeValues for PairedLevels {
    #[inline(always)]
    fn table<L: Lanes>(self, lanes: L, _: f32, _: f32) -> L::Floats {
        lanes.load(&self.0)
    }

    #[inline(always)]
    fn values<L: Lanes>(self, lanes: L, found: L::Floats, scale: f32, offset: f32) -> L::Floats {
        // Of four neighbouring lanes, two are of the words of the first group.
        let four = [scale, scale, offset, offset];
        let scales = core::array::from_fn(
            #[inline(always)]
            |k| four[k % 4],
        );
        lanes.mul(found, lanes.load(&scales))
    }
}

#[derive(Clone, Copy)]
struct ScaledLevels([f32; LANES]);

#[derive(Clone, Copy)]
struct AffineTable(Affine);

impl CodeValues for ScaledLevels {
    #[inline(always)]
    fn table<L: Lanes>(self, lanes: L, scale: f32, _: f32) -> L::Floats {
        lanes.mul(lanes.load(&self.0), lanes.splat(scale))
    }
}

impl CodeValues for AffineTable {
    #[inline(always)]
    fn table<L: Lanes>(self, lanes: L, scale: f32, offset: f32) -> L::Floats {
        self.0.table(lanes, scale, offset)
    }
}

impl<'a> Fours<'a> {
    /// The weight, if it is of that kind.
    pub(super) fn new(
        format: Format,
        shape: [usize; 2],
        words: &'a [u32],
        scales: &'a [u32],
    ) -> Option<Self> {
        let [o, i] = shape;
        let (group, scales) = match format {
            Format::Nf4(blocks) => {
                let scales = Scales::new(blocks, o * i, scales);
                (blocks.block, GroupScales::Blocks(NF4.levels, scales))
            }
            Format::Fp4(blocks) => {
                let scales = Scales::new(blocks, o * i, scales);
                (blocks.block, GroupScales::Blocks(FP4.levels, scales))
            }
            Format::Micro(Micro::Mxfp4) => (
                Micro::Mxfp4.group(),
                GroupScales::Micro(Micro::Mxfp4, scales),
            ),
            Format::Micro(micro @ Micro::Nvfp4 { .. }) => {
                (2 * micro.group(), GroupScales::Micro(micro, scales))
            }
            Format::Affine(affine) if affine.bits == 4 && affine.along == Along::Flat => {
                (affine.group, GroupScales::Affine(affine, scales))
            }
            _ => return None,
        };
        (i > 0 && i.is_multiple_of(group) && group.is_multiple_of(CHUNK)).then_some(Self {
            words,
            scales,
            chunks: group / CHUNK,
            groups: i / group,
        })
    }

    /// Scales of `rows` rows from `first` on.
    #[inline(always)]
    fn stage(&self, first: usize, rows: usize, staged: &mut Staged) {
        let (at, len) = (first * self.groups, rows * self.groups);
        staged.scales.resize(len, 0.0);
        staged.offsets.resize(len, 0.0);
        match self.scales {
            GroupScales::Blocks(_, scales) => scales.fill(at, &mut staged.scales),
            GroupScales::Micro(micro @ Micro::Nvfp4 { .. }, scales) => {
                let Staged {
                    scales: first,
                    offsets: second,
                } = staged;
                let mut pairs = vec![0.0; 2 * len];
                micro.scales_from(scales, 2 * at, &mut pairs);
                let to = first.iter_mut().zip(second);
                for ((first, second), pair) in to.zip(pairs.as_chunks::<2>().0) {
                    [*first, *second] = *pair;
                }
            }
            GroupScales::Micro(micro, scales) => {
                micro.scales_from(scales, at, &mut staged.scales);
            }
            GroupScales::Affine(affine, scales) => {
                affine.params_from(scales, at, &mut staged.scales, &mut staged.offsets);
            }
        }
    }

    /// The chunks of words of a row.
    #[inline(always)]
    fn row(&self, r: usize) -> &[[u32; WORDS]] {
        let len = self.groups * self.chunks;
        let words = &self.words[r * len * WORDS..][..len * WORDS];
        words.as_chunks().0
    }

    /// Rows from `first` on times the inputs `x`, `[m, i]` in chunks, one after another, into `[m, rows]`.
    #[inline(always)]
    pub(super) fn multiply<L: Lanes>(
        &self,
        lanes: L,
        first: usize,
        x: &[f32],
        staged: &mut Staged,
        y: &mut [f32],
    ) {
        let cols = self.groups * self.chunks * CHUNK;
        let all = y.len() * cols / x.len();
        let mut done = 0;
        while done < all {
            let rows = if all - done >= L::ROWS { L::ROWS } else { 1 };
            let first = first + done;
            self.stage(first, rows, staged);
            for (k, x) in x.chunks_exact(cols).enumerate() {
                let mut found = [0.0; ROWS];
                let found = &mut found[..rows];
                match self.scales {
                    GroupScales::Blocks(levels, _) => {
                        self.some(lanes, ScaledLevels(levels), first, x, staged, found);
                    }
                    GroupScales::Micro(Micro::Nvfp4 { .. }, _) => {
                        self.some(lanes, PairedLevels(E2M1), first, x, staged, found);
                    }
                    GroupScales::Micro(..) => {
                        self.some(lanes, ScaledLevels(E2M1), first, x, staged, found);
                    }
                    GroupScales::Affine(affine, _) => {
                        self.some(lanes, AffineTable(affine), first, x, staged, found);
                    }
                }
                y[k * all + done..][..rows].copy_from_slice(found);
            }
            done += rows;
        }
    }

    #[inline(always)]
    fn some<L: Lanes>(
        &self,
        lanes: L,
        values: impl CodeValues,
        first: usize,
        x: &[f32],
        staged: &Staged,
        y: &mut [f32],
    ) {
        match y.len() {
            4 => self.rows::<L, 4>(lanes, values, first, x, staged, y),
            2 => self.rows::<L, 2>(lanes, values, first, x, staged, y),
            _ => self.rows::<L, 1>(lanes, values, first, x, staged, y),
        }
    }

    /// `R` rows, adding in the order of [`dot`](super::dot).
    #[inline(always)]
    fn rows<L: Lanes, const R: usize>(
        &self,
        lanes: L,
        values: impl CodeValues,
        first: usize,
        x: &[f32],
        staged: &Staged,
        y: &mut [f32],
    ) {
        let (groups, chunks) = (self.groups, self.chunks);
        let words: [_; R] = core::array::from_fn(|r| self.row(first + r));
        let scales: [_; R] = core::array::from_fn(|r| &staged.scales[r * groups..][..groups]);
        let offsets: [_; R] = core::array::from_fn(|r| &staged.offsets[r * groups..][..groups]);
        let x = x.as_chunks::<LANES>().0.as_chunks::<2>().0;
        let mut sums = [lanes.splat(0.0); R];
        for g in 0..groups {
            let x = &x[g * chunks..][..chunks];
            let mut tables = sums;
            let mut group = [&words[0][..0]; R];
            for r in 0..R {
                tables[r] = values.table(lanes, scales[r][g], offsets[r][g]);
                group[r] = &words[r][g * chunks..][..chunks];
            }
            for c in 0..chunks {
                let [lower, upper] = [lanes.load(&x[c][0]), lanes.load(&x[c][1])];
                for r in 0..R {
                    // Rows are too short for the processor to notice in time that they are read through: the same
                    // place of the rows after these.
                    lanes.prefetch(group[r][c].as_slice(), R * groups * chunks * WORDS);
                    let [a, b] = lanes.chunk(&group[r][c]);
                    let [a, b] = lanes::both(
                        [a, b],
                        #[inline(always)]
                        |codes| {
                            let found = lanes.look_up(tables[r], codes);
                            values.values(lanes, found, scales[r][g], offsets[r][g])
                        },
                    );
                    sums[r] = lanes.mul_add(a, lower, sums[r]);
                    sums[r] = lanes.mul_add(b, upper, sums[r]);
                }
            }
        }
        for (y, sums) in y.iter_mut().zip(sums) {
            let mut lane = [0.0; LANES];
            lanes.store(sums, &mut lane);
            *y = lanes::sum(lane);
        }
    }

    /// Dequantizes rows from `first` on, `[rows, i]`, in the order of chunks.
    #[inline(always)]
    pub(super) fn unpack<L: Lanes>(
        &self,
        lanes: L,
        first: usize,
        staged: &mut Staged,
        out: &mut [f32],
    ) {
        let cols = self.groups * self.chunks * CHUNK;
        for (r, out) in (first..).zip(out.chunks_exact_mut(cols)) {
            self.stage(r, 1, staged);
            match self.scales {
                GroupScales::Blocks(levels, _) => {
                    self.unpack_row(lanes, ScaledLevels(levels), r, staged, out);
                }
                GroupScales::Micro(Micro::Nvfp4 { .. }, _) => {
                    self.unpack_row(lanes, PairedLevels(E2M1), r, staged, out);
                }
                GroupScales::Micro(..) => {
                    self.unpack_row(lanes, ScaledLevels(E2M1), r, staged, out);
                }
                GroupScales::Affine(affine, _) => {
                    self.unpack_row(lanes, AffineTable(affine), r, staged, out);
                }
            }
        }
    }

    #[inline(always)]
    fn unpack_row<L: Lanes>(
        &self,
        lanes: L,
        values: impl CodeValues,
        r: usize,
        staged: &Staged,
        out: &mut [f32],
    ) {
        let out = out.as_chunks_mut::<LANES>().0.as_chunks_mut::<2>().0;
        let groups = out.chunks_exact_mut(self.chunks);
        let groups = groups.zip(self.row(r).chunks_exact(self.chunks));
        let pairs = staged.scales.iter().zip(&staged.offsets);
        for ((out, words), (scale, offset)) in groups.zip(pairs) {
            let table = values.table(lanes, *scale, *offset);
            for ([lower, upper], words) in out.iter_mut().zip(words) {
                let [a, b] = lanes::both(
                    lanes.chunk(words),
                    #[inline(always)]
                    |codes| {
                        let found = lanes.look_up(table, codes);
                        values.values(lanes, found, *scale, *offset)
                    },
                );
                lanes.store(a, lower);
                lanes.store(b, upper);
            }
        }
    }
}
