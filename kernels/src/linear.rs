//! Products with a packed weight on the host, and its rows as embeddings.
//!
//! Rows are unpacked a few at a time into scratch that fits the cache; the weight is never whole.
//! Each output is summed in the same order whatever the number of threads or of inputs.
//!
//! Letters: `o` rows of the weight, `i` columns, `m` inputs.

#[cfg(feature = "cube")]
pub(crate) mod cube;

use rayon::prelude::*;

use crate::error::FormatError;
use crate::format::Format;

/// Partial sums of a dot product: enough that an addition need not wait for the one before.
const LANES: usize = 16;

/// Rows unpacked together, so that each input is read once for all of them.
const ROWS: usize = 4;

/// Rows of a job.
const JOB_ROWS: usize = 4 * ROWS;

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
    if o == 0 {
        assert!(y.is_empty(), "outputs of a weight of {shape:?}");
        return;
    }
    let m = y.len() / o;
    assert_eq!(y.len(), m * o, "outputs of {m} inputs to {shape:?}");
    assert_eq!(x.len(), m * i, "{m} inputs to {shape:?}");
    if m == 0 {
        return;
    }

    // Rows of the weight are rows of the transposed output; with one input it needs no transposing.
    let mut transposed = if m == 1 { Vec::new() } else { vec![0.0; o * m] };
    let y_om = if m == 1 { &mut *y } else { &mut transposed[..] };
    let jobs = y_om.par_chunks_mut(JOB_ROWS * m).enumerate();
    jobs.for_each_init(
        || vec![0.0; ROWS * i],
        |scratch, (job, y_om)| {
            for (group, y_om) in y_om.chunks_mut(ROWS * m).enumerate() {
                let first = job * JOB_ROWS + group * ROWS;
                let rows = y_om.len() / m;
                let w = &mut scratch[..rows * i];
                format.dequantize_rows(shape, words, scales, first..first + rows, w);
                for k in 0..m {
                    let x = &x[k * i..][..i];
                    for r in 0..rows {
                        y_om[r * m + k] = dot(&w[r * i..][..i], x);
                    }
                }
            }
        },
    );

    if m > 1 {
        y.par_chunks_mut(o).enumerate().for_each(|(k, y)| {
            for (r, y) in y.iter_mut().enumerate() {
                *y = transposed[r * m + k];
            }
        });
    }
}

/// Multiplying several rows at a time was slower: the compiler then shuffles rows into one register.
fn dot(w: &[f32], x: &[f32]) -> f32 {
    let ((w, w_tail), (x, x_tail)) = (w.as_chunks::<LANES>(), x.as_chunks::<LANES>());
    let mut sums = [0.0; LANES];
    for (w, x) in w.iter().zip(x) {
        for ((sum, w), x) in sums.iter_mut().zip(w).zip(x) {
            *sum += w * x;
        }
    }
    let tail: f32 = w_tail.iter().zip(x_tail).map(|(w, x)| w * x).sum();
    sums.iter().sum::<f32>() + tail
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
pub fn rows(
    format: Format,
    shape: [usize; 2],
    words: &[u32],
    scales: &[u32],
    ids: &[usize],
    out: &mut [f32],
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
