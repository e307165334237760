//! Products with a packed weight on the host, and its rows as embeddings.
//!
//! 4-bit codes and halves times a few inputs are multiplied as they are unpacked (`fours`, `halves`). All else is unpacked a few rows at a
//! time into scratch that fits the cache (`dot`); the weight is never whole. Each output is summed in the same order
//! whatever the number of threads or of inputs.
//!
//! Letters: `o` rows of the weight, `i` columns, `m` inputs.

#[cfg(feature = "cube")]
mod cube;
mod dot;
mod fours;
mod halves;

use std::borrow::Cow;

#[cfg(feature = "cube")]
pub use cube::INPUTS;
use rayon::prelude::*;

use crate::arith::lanes::{self, LANES, Lanes, Work};
use crate::arith::number::Number;
use crate::format::Format;
use crate::format::FormatError;
use fours::{Fours, Staged};
use halves::Halves;

/// Rows of a job that are multiplied with one input.
const JOB_ROWS: usize = 32;

/// Values of a job with several inputs: its rows are unpacked together, so that each input is read once for all, and have
/// to stay in the second cache.
const UNPACKED: usize = 1 << 17;

/// Inputs up to which codes are unpacked once for each, in registers, rather than once in memory.
const FEW: usize = 4;

/// Rows unpacked together for one input.
const ROWS: usize = 4;

/// `y = x * transpose(w)`, with `x` `[m, i]`, `w` packed of `shape` `[o, i]`, `y` `[m, o]`.
///
/// Runs on the current rayon pool.
///
/// # Panics
///
/// When a length does not fit the shape.
pub fn linear(
    format: Format,
    shape: [usize; 2],
    words: &[u32],
    scales: &[u32],
    x: &[f32],
    y: &mut [f32],
) {
    let [o, i] = shape;
    format.assert_lengths(shape, words, scales);
    if o == 0 {
        assert!(y.is_empty(), "outputs of a weight of {shape:?}");
        return;
    }
    let m = y.len() / o;
    assert_eq!(y.len(), m * o, "outputs of {m} inputs to {shape:?}");
    assert_eq!(x.len(), m * i, "{m} inputs to {shape:?}");
    if m == 0 || i == 0 {
        y.fill(0.0);
        return;
    }

    let fours = Fours::new(format, shape, words, scales);
    let job = Job {
        format,
        shape,
        words,
        scales,
        fours,
        halves: Halves::new(format, shape, words),
        cols: i.next_multiple_of(LANES),
        x: &ordered(x, i, fours.is_some()),
        m,
    };
    // Rows of the weight are rows of the transposed output; with one input it needs no transposing.
    if m == 1 {
        job.run(JOB_ROWS, y);
        return;
    }
    let mut transposed = vec![0.0; o * m];
    job.run(together(job.cols), &mut transposed);
    y.par_chunks_mut(o).enumerate().for_each(|(k, y)| {
        for (r, y) in y.iter_mut().enumerate() {
            *y = transposed[r * m + k];
        }
    });
}

/// Rows of `cols` columns that are unpacked together for several inputs.
fn together(cols: usize) -> usize {
    (UNPACKED / cols).clamp(16, 32) / ROWS * ROWS
}

/// Inputs `[m, i]` in whole vectors, zeros after the last column, and in chunks if so asked.
fn ordered(x: &[f32], i: usize, chunks: bool) -> Cow<'_, [f32]> {
    let cols = i.next_multiple_of(LANES);
    if !chunks && cols == i {
        return Cow::Borrowed(x);
    }
    let mut ordered = vec![0.0; x.len() / i * cols];
    let rows = ordered.par_chunks_mut(cols).zip(x.par_chunks(i));
    rows.for_each(|(to, x)| {
        to[..i].copy_from_slice(x);
        if chunks {
            lanes::to_chunks(to);
        }
    });
    Cow::Owned(ordered)
}

/// The facts that all rows share.
#[derive(Clone, Copy)]
struct Job<'a> {
    format: Format,
    shape: [usize; 2],
    words: &'a [u32],
    scales: &'a [u32],
    fours: Option<Fours<'a>>,
    halves: Option<Halves<'a>>,
    /// Columns, in whole vectors.
    cols: usize,
    /// `[m, cols]`.
    x: &'a [f32],
    m: usize,
}

/// Memory that a thread uses in one job after another.
#[derive(Default)]
struct Scratch {
    staged: Staged,
    /// Unpacked rows. Values beyond the last column stay 0.
    rows: Vec<f32>,
    sums: Vec<[f32; LANES]>,
}

impl Job<'_> {
    /// All rows, into `[o, m]`.
    fn run(self, job_rows: usize, y_om: &mut [f32]) {
        let jobs = y_om.par_chunks_mut(job_rows * self.m).enumerate();
        jobs.for_each_init(Scratch::default, |scratch, (k, y)| {
            let (job, first) = (self, k * job_rows);
            lanes::run(SomeRows {
                job,
                first,
                scratch,
                y,
            });
        });
    }

    /// Unpacks rows from `first` on, `[rows, cols]`.
    #[inline(always)]
    fn unpack<L: Lanes>(&self, lanes: L, first: usize, staged: &mut Staged, out: &mut [f32]) {
        let i = self.shape[1];
        if let Some(fours) = &self.fours {
            fours.unpack(lanes, first, staged, out);
            return;
        }
        // All at once where rows follow each other.
        let together = if i == self.cols { out.len() / i } else { 1 };
        let mut first = first;
        for out in out.chunks_mut(together * self.cols) {
            let (rows, out) = (first..first + together, &mut out[..together * i]);
            self.format
                .dequantize_rows(self.shape, self.words, self.scales, rows, out);
            first += together;
        }
    }
}

/// Some rows of a job, into `[rows, m]`.
struct SomeRows<'a> {
    job: Job<'a>,
    first: usize,
    scratch: &'a mut Scratch,
    y: &'a mut [f32],
}

impl Work for SomeRows<'_> {
    type Output = ();

    #[inline(always)]
    fn on<L: Lanes>(self, lanes: L) {
        let Self {
            job,
            first,
            scratch,
            y,
        } = self;
        let Job { m, cols, .. } = job;
        if let (1..=FEW, Some(fours)) = (m, &job.fours) {
            fours.multiply(lanes, first, job.x, &mut scratch.staged, y);
            return;
        }
        if let (1..=FEW, Some(halves)) = (m, &job.halves) {
            halves.multiply(lanes, first, job.x, y);
            return;
        }
        let together = if m == 1 { ROWS } else { together(cols) };
        for (group, y) in y.chunks_mut(together * m).enumerate() {
            let rows = y.len() / m;
            scratch.rows.resize(together * cols, 0.0);
            let w = &mut scratch.rows[..rows * cols];
            job.unpack(lanes, first + group * together, &mut scratch.staged, w);
            dot::products(lanes, w, job.x, cols, &mut scratch.sums, y);
        }
    }
}

/// The rows `ids` of a packed weight of `shape` `[o, i]`, into `out` `[ids, i]`: an embedding.
///
/// # Errors
///
/// [`FormatError::Row`] when an id is not below `o`; `out` is then untouched.
///
/// # Panics
///
/// When a length does not fit the shape.
pub fn rows<T: Number + Send>(
    format: Format,
    shape: [usize; 2],
    words: &[u32],
    scales: &[u32],
    ids: &[usize],
    out: &mut [T],
) -> Result<(), FormatError> {
    let [o, i] = shape;
    assert_eq!(out.len(), ids.len() * i, "{} rows of {shape:?}", ids.len());
    if let Some(&row) = ids.iter().find(|id| **id >= o) {
        return Err(FormatError::Row { row, rows: o });
    }
    if i > 0 {
        out.par_chunks_mut(i).zip(ids).for_each(|(out, &id)| {
            format.dequantize_rows(shape, words, scales, id..id + 1, out);
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
