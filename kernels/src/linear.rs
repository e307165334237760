//! Products with a packed weight on the host, and its rows as embeddings.
//!
//! 4-bit and 8-bit codes and halves times a few inputs are multiplied as they are unpacked (`fours`, `eights`, `halves`).
//! All else is unpacked a few rows at a time into scratch that fits the cache (`dot`); the weight is never whole. Each output
//! is summed in the same order whatever the number of threads or of inputs.
//!
//! Other arithmetic than `f32` is asked for by [`Compute`]: `bf16`, and whole numbers (`bytes`).
//!
//! Letters: `o` rows of the weight, `i` columns, `m` inputs.

mod bf16;
mod bytes;
mod columns;
mod compute;
#[cfg(feature = "cube")]
mod cube;
mod dot;
mod eights;
mod fours;
mod halves;

use std::borrow::Cow;

pub use compute::{Compute, UnknownCompute};
#[cfg(feature = "cube")]
pub use cube::INPUTS;
use rayon::prelude::*;

use crate::arith::lanes::{self, LANES, Lanes, Work};
use crate::arith::number::Number;
use crate::format::Format;
use crate::format::FormatError;
use bf16::{Bf16Inputs, Bf16Pairs};
use bytes::{ByteProduct, ByteScratch, ByteUnit, ByteWeight};
use columns::Columns;
use dot::{InputPanels, RowPanels};
use eights::Eights;
use fours::{Fours, Staged};
use halves::Halves;

/// Rows of a job: few enough that they stay in the second cache, unpacked, while all inputs are multiplied with them.
const JOB_ROWS: usize = 32;

/// Inputs up to which codes are unpacked once for each, in registers, rather than once in memory.
const FEW: usize = 4;

/// Bytes of inputs that are multiplied together: as many as the last cache holds, so that each job finds them there.
const INPUT_BYTES: usize = 8 << 20;

/// `y = x * transpose(w)`, with `x` `[m, i]`, `w` packed of `shape` `[o, i]`, `y` `[m, o]`, in `f32`.
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
    linear_in(Compute::F32, format, shape, words, scales, x, y);
}

/// [`linear`] in the arithmetic that [`Compute::of`] gives for `compute`.
///
/// # Panics
///
/// When a length does not fit the shape.
pub fn linear_in(
    compute: Compute,
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

    let compute = match compute.of(format, shape) {
        Compute::Bf16 if m <= FEW => Compute::F32,
        other => other,
    };
    let size = match compute {
        Compute::F32 => 4,
        Compute::Bf16 => 2,
        Compute::Int8 => 1,
    };
    let together = (INPUT_BYTES / (size * i))
        .max(1)
        .next_multiple_of(dot::INPUTS);
    for (x, y) in x.chunks(together * i).zip(y.chunks_mut(together * o)) {
        multiply(compute, format, shape, [words, scales], x, y);
    }
}

/// [`linear_in`] of a few hundred inputs.
fn multiply(
    compute: Compute,
    format: Format,
    shape @ [o, _]: [usize; 2],
    packed: [&[u32]; 2],
    x: &[f32],
    y: &mut [f32],
) {
    let m = y.len() / o;
    let job = Job::new(compute, format, shape, packed, x, m);
    let columns = Columns::new(y, o);
    let jobs = (0..o.div_ceil(JOB_ROWS)).into_par_iter();
    jobs.for_each_init(
        || (Scratch::default(), Vec::new()),
        |(scratch, y), k| {
            let first = k * JOB_ROWS;
            y.resize(JOB_ROWS.min(o - first) * m, 0.0);
            let job = &job;
            lanes::run(SomeRows {
                job,
                first,
                scratch,
                y,
            });
            // SAFETY: no job has rows of another.
            unsafe { columns.write(first, y) };
        },
    );
}

/// Inputs in whole vectors, zeros after the last column.
enum Inputs<'a> {
    /// `[m, cols]`.
    Few(Cow<'a, [f32]>),
    Many(InputPanels<[f32; LANES]>),
    Bf16(Bf16Inputs),
    Bytes(Box<ByteProduct<'a>>),
}

/// Inputs `[m, i]` in whole vectors, and in chunks if so asked.
fn ordered(x: &[f32], i: usize, chunks: bool) -> Cow<'_, [f32]> {
    if !chunks {
        return Cow::Borrowed(x);
    }
    let mut ordered = x.to_vec();
    ordered.chunks_exact_mut(i).for_each(lanes::to_chunks);
    Cow::Owned(ordered)
}

/// Inputs `[m, i]` in panels, and in chunks if so asked.
fn panels(x: &[f32], i: usize, chunks: bool) -> InputPanels<[f32; LANES]> {
    InputPanels::new(x, i, i.div_ceil(LANES), |x, to| {
        let to = to.as_flattened_mut();
        to[..i].copy_from_slice(x);
        if chunks {
            lanes::to_chunks(to);
        }
    })
}

/// The facts that all rows share.
struct Job<'a> {
    format: Format,
    shape: [usize; 2],
    words: &'a [u32],
    scales: &'a [u32],
    fours: Option<Fours<'a>>,
    halves: Option<Halves<'a>>,
    eights: Option<Eights<'a>>,
    /// Columns, in whole vectors.
    cols: usize,
    x: Inputs<'a>,
    m: usize,
}

/// Memory that a thread uses in one job after another.
#[derive(Default)]
struct Scratch {
    staged: Staged,
    rows: RowPanels<[f32; LANES]>,
    pairs: RowPanels<Bf16Pairs>,
    halves: Vec<half::bf16>,
    bytes: ByteScratch,
}

impl<'a> Job<'a> {
    /// `m` inputs `x`, `[m, i]`, to a weight, neither of them empty.
    fn new(
        compute: Compute,
        format: Format,
        shape: [usize; 2],
        [words, scales]: [&'a [u32]; 2],
        x: &'a [f32],
        m: usize,
    ) -> Self {
        let i = shape[1];
        let fours = Fours::new(format, shape, words, scales);
        let halves = Halves::new(format, shape, words);
        let eights = Eights::new(format, shape, words, scales);
        let bytes = match compute {
            Compute::Int8 => ByteWeight::new(format, shape, words, scales),
            _ => None,
        };
        let x = if let Some(weight) = bytes {
            Inputs::Bytes(Box::new(ByteProduct::new(ByteUnit::best(), weight, x)))
        } else if compute == Compute::Bf16 {
            Inputs::Bf16(Bf16Inputs::new(x, i))
        } else if m <= FEW && (fours.is_some() || halves.is_some() || eights.is_some()) {
            Inputs::Few(ordered(x, i, fours.is_some()))
        } else {
            Inputs::Many(panels(x, i, fours.is_some()))
        };
        Self {
            format,
            shape,
            words,
            scales,
            fours,
            halves,
            eights,
            cols: i.next_multiple_of(LANES),
            x,
            m,
        }
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

/// Some rows of a job, into `[m, rows]`.
struct SomeRows<'a> {
    job: &'a Job<'a>,
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
        let rows = y.len() / job.m;
        match (&job.x, &job.fours, &job.halves) {
            (Inputs::Few(x), Some(fours), _) => {
                fours.multiply(lanes, first, x, &mut scratch.staged, y);
            }
            (Inputs::Few(x), _, Some(halves)) => halves.multiply(lanes, first, x, y),
            (Inputs::Few(x), ..) => {
                let eights = job
                    .eights
                    .as_ref()
                    .expect("few inputs have a way of their own");
                eights.multiply(lanes, first, x, &mut scratch.staged, y);
            }
            (Inputs::Bytes(product), ..) => product.rows(first, &mut scratch.bytes, y),
            (Inputs::Bf16(x), ..) => {
                let Job {
                    format,
                    shape,
                    words,
                    scales,
                    ..
                } = *job;
                let i = shape[1];
                // Rows as they are stored, each rounded where it is dequantized.
                let unpack = |r: usize, out: &mut [half::bf16]| {
                    let rows = first + r..first + r + 1;
                    format.dequantize_rows(shape, words, scales, rows, &mut out[..i]);
                };
                match x {
                    #[cfg(target_arch = "x86_64")]
                    Bf16Inputs::Paired(tiles, x) => {
                        let unpack = |r: usize, out: &mut [Bf16Pairs]| {
                            for (k, out) in out.chunks_exact_mut(x.len()).enumerate() {
                                unpack(r + k, bf16::bf16s(out));
                            }
                        };
                        scratch.pairs.products(*tiles, rows, x, unpack, y);
                    }
                    Bf16Inputs::Split(x) => {
                        let row = &mut scratch.halves;
                        row.resize(i, half::bf16::ZERO);
                        let unpack = |r: usize, out: &mut [[f32; LANES]]| {
                            for (k, out) in out.chunks_exact_mut(x.len()).enumerate() {
                                unpack(r + k, row);
                                bf16::split(row, out);
                            }
                        };
                        scratch.rows.products(lanes, rows, x, unpack, y);
                    }
                }
            }
            (Inputs::Many(x), ..) => {
                let Scratch {
                    staged,
                    rows: panels,
                    ..
                } = scratch;
                panels.products(
                    lanes,
                    rows,
                    x,
                    #[inline(always)]
                    |r, out| job.unpack(lanes, first + r, staged, out.as_flattened_mut()),
                    y,
                );
            }
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
