//! Products of unpacked rows with inputs.
//!
//! An output is one vector of partial sums over its row, whose lanes are added at the end: the same whichever rows and
//! inputs it is computed among.
//!
//! Rows and inputs lie in *panels*: one vector of each of a few, then the next of each. A tile so reads one stream of
//! either; rows that are a power of two apart would drive each other out of the nearest cache.

use core::ops::Range;

use rayon::prelude::*;

use crate::arith::lanes::{self, LANES, Lanes};

/// Inputs of a panel. The last ones, where there are fewer, are panels of four, two and one.
pub(super) const INPUTS: usize = 6;

/// Vectors of a row multiplied before those after them: a job's rows of as many stay in the second cache for all inputs.
const BLOCK: usize = 256;

/// Vectors of a tile that the nearest cache holds.
const NEAR: usize = 32;

/// Partial sums of an output.
pub(super) type Partials = [f32; LANES];

/// What multiplies vectors `V`, 64 bytes of a row or an input.
pub(super) trait Tiles<V>: Copy {
    /// Rows of a tile, 2 or 4.
    const ROWS: usize;

    /// Adds products of `R` rows with `M` inputs to their sums, which are `new` ones before the first block.
    fn tile<const R: usize, const M: usize>(
        self,
        w: &[[V; R]],
        x: &[[V; M]],
        new: bool,
        sums: &mut [[Partials; M]; R],
    );
}

/// Inputs in panels.
pub(super) struct InputPanels<V> {
    vectors: Vec<V>,
    /// Vectors of an input.
    len: usize,
}

impl<V: Copy + Default + Send + Sync> InputPanels<V> {
    /// Inputs `[m, i]`, each of which `order` writes into `len` vectors.
    pub(super) fn new(
        x: &[f32],
        i: usize,
        len: usize,
        order: impl Fn(&[f32], &mut [V]) + Sync,
    ) -> Self {
        let mut vectors = vec![V::default(); x.len() / i * len];
        let some = vectors.par_chunks_mut(INPUTS * len);
        some.zip(x.par_chunks(INPUTS * i)).for_each_init(
            || vec![V::default(); len],
            |row, (to, x)| {
                let mut x = x.chunks_exact(i);
                for_panels(to.len() / len, |first, panel| {
                    let to = &mut to[first * len..][..panel * len];
                    for (k, x) in x.by_ref().take(panel).enumerate() {
                        order(x, row);
                        interleave(row, k, panel, to);
                    }
                });
            },
        );
        Self { vectors, len }
    }
}

impl<V> InputPanels<V> {
    /// Vectors of an input.
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

/// Calls `each` with the first input of each panel of `m`, and how many it has.
#[inline(always)]
pub(super) fn for_panels(m: usize, mut each: impl FnMut(usize, usize)) {
    let mut first = 0;
    while first < m {
        let panel = match m - first {
            INPUTS.. => INPUTS,
            4.. => 4,
            2.. => 2,
            _ => 1,
        };
        each(first, panel);
        first += panel;
    }
}

/// Puts the row `k` of a panel of `panel` where it belongs.
#[inline(always)]
fn interleave<V: Copy>(row: &[V], k: usize, panel: usize, to: &mut [V]) {
    for (to, from) in to.iter_mut().skip(k).step_by(panel).zip(row) {
        *to = *from;
    }
}

/// Rows one after another, side by side.
#[inline(always)]
fn beside<V: Copy, const R: usize>(rows: &[V], to: &mut [V]) {
    let len = rows.len() / R;
    let rows: [&[V]; R] = core::array::from_fn(|r| &rows[r * len..][..len]);
    for (c, to) in to.as_chunks_mut::<R>().0.iter_mut().enumerate() {
        for r in 0..R {
            to[r] = rows[r][c];
        }
    }
}

/// Some rows in panels of [`Tiles::ROWS`], the last ones one by one, and their sums so far.
#[derive(Debug, Default)]
pub(super) struct RowPanels<V> {
    vectors: Vec<V>,
    unpacked: Vec<V>,
    sums: Vec<Partials>,
}

impl<V: Copy + Default> RowPanels<V> {
    /// `y = x * transpose(w)` of `rows` rows, which `unpack` gives a few at a time from the row it is told on, into
    /// `[m, rows]`. Vectors and parts of them that it leaves alone are zero.
    #[inline(always)]
    pub(super) fn products<T: Tiles<V>>(
        &mut self,
        tiles: T,
        rows: usize,
        x: &InputPanels<V>,
        mut unpack: impl FnMut(usize, &mut [V]),
        y: &mut [f32],
    ) {
        let len = x.len;
        self.unpacked.resize(T::ROWS * len, V::default());
        self.vectors.resize(rows * len, V::default());
        for first in (0..rows).step_by(T::ROWS) {
            let some = T::ROWS.min(rows - first);
            let unpacked = &mut self.unpacked[..some * len];
            unpack(first, unpacked);
            let panel = if some == T::ROWS { some } else { 1 };
            let panels = self.vectors[first * len..].chunks_exact_mut(panel * len);
            for (to, rows) in panels.zip(unpacked.chunks_exact(panel * len)) {
                match panel {
                    4 => beside::<V, 4>(rows, to),
                    2 => beside::<V, 2>(rows, to),
                    _ => to.copy_from_slice(rows),
                }
            }
        }

        // Sums of one panel after another, where a row is one block.
        let (m, all) = (x.vectors.len() / len, len > BLOCK);
        let kept = if all { m } else { INPUTS };
        self.sums.resize(rows * kept, [0.0; LANES]);
        for from in (0..len).step_by(BLOCK) {
            let block = from..len.min(from + BLOCK);
            for_panels(
                m,
                #[inline(always)]
                |first, panel| {
                    let x = &x.vectors[first * len..][..panel * len];
                    let at = if all { first } else { 0 };
                    let sums = &mut self.sums[at * rows..][..panel * rows];
                    let w = &self.vectors;
                    match panel {
                        INPUTS => multiply::<V, T, INPUTS>(tiles, w, x, block.clone(), sums),
                        4 => multiply::<V, T, 4>(tiles, w, x, block.clone(), sums),
                        2 => multiply::<V, T, 2>(tiles, w, x, block.clone(), sums),
                        _ => multiply::<V, T, 1>(tiles, w, x, block.clone(), sums),
                    }
                    if block.end == len {
                        let y = &mut y[first * rows..][..panel * rows];
                        for (r, sums) in sums.chunks_exact(panel).enumerate() {
                            for (y, sums) in y.chunks_exact_mut(rows).zip(sums) {
                                y[r] = lanes::sum(*sums);
                            }
                        }
                    }
                },
            );
        }
    }
}

/// Products of all rows with the `M` inputs of a panel over the vectors `block`, added to sums `[rows, M]`.
#[inline(always)]
fn multiply<V, T: Tiles<V>, const M: usize>(
    tiles: T,
    w: &[V],
    x: &[V],
    block: Range<usize>,
    sums: &mut [Partials],
) {
    let x = x.as_chunks::<M>().0;
    let (len, new) = (x.len(), block.start == 0);
    let x = &x[block.clone()];
    let sums = sums.as_chunks_mut::<M>().0;
    let whole = sums.len() / T::ROWS * T::ROWS;
    let (w, last) = w.split_at(whole * len);
    let (sums, last_sums) = sums.split_at_mut(whole);
    macro_rules! tiles {
        ($rows:literal, $w:expr, $sums:expr) => {
            let panels = $w.chunks_exact($rows * len);
            for (w, sums) in panels.zip($sums.as_chunks_mut::<$rows>().0) {
                let w = &w.as_chunks::<$rows>().0[block.clone()];
                tiles.tile::<$rows, M>(w, x, new, sums);
            }
        };
    }
    if T::ROWS == 4 {
        tiles!(4, w, sums);
    } else {
        tiles!(2, w, sums);
    }
    tiles!(1, last, last_sums);
}

/// Vectors of sixteen floats.
impl<L: Lanes> Tiles<[f32; LANES]> for L {
    const ROWS: usize = <L as Lanes>::ROWS;

    #[inline(always)]
    fn tile<const R: usize, const M: usize>(
        self,
        w: &[[[f32; LANES]; R]],
        x: &[[[f32; LANES]; M]],
        new: bool,
        sums: &mut [[Partials; M]; R],
    ) {
        if L::PARTS == 1 {
            part::<L, R, M, 0>(self, w, x, new, sums);
            return;
        }
        // What one part has read, the nearest cache still holds for the next.
        for (k, (w, x)) in w.chunks(NEAR).zip(x.chunks(NEAR)).enumerate() {
            let new = new && k == 0;
            part::<L, R, M, 0>(self, w, x, new, sums);
            part::<L, R, M, 1>(self, w, x, new, sums);
            if L::PARTS > 2 {
                part::<L, R, M, 2>(self, w, x, new, sums);
                part::<L, R, M, 3>(self, w, x, new, sums);
            }
        }
    }
}

/// A part of each sixteen: as many sums as stay in registers.
#[inline(always)]
fn part<L: Lanes, const R: usize, const M: usize, const PART: usize>(
    lanes: L,
    w: &[[[f32; LANES]; R]],
    x: &[[[f32; LANES]; M]],
    new: bool,
    sums: &mut [[Partials; M]; R],
) {
    let mut totals = [[lanes.load_part::<PART>(&[0.0; LANES]); M]; R];
    if !new {
        for r in 0..R {
            for m in 0..M {
                totals[r][m] = lanes.load_part::<PART>(&sums[r][m]);
            }
        }
    }
    for (w, x) in w.iter().zip(x) {
        let mut rows = [totals[0][0]; R];
        for r in 0..R {
            rows[r] = lanes.load_part::<PART>(&w[r]);
        }
        for m in 0..M {
            let x = lanes.load_part::<PART>(&x[m]);
            for r in 0..R {
                totals[r][m] = lanes.mul_add_part(rows[r], x, totals[r][m]);
            }
        }
    }
    for r in 0..R {
        for m in 0..M {
            lanes.store_part::<PART>(totals[r][m], &mut sums[r][m]);
        }
    }
}
