//! Products with a packed weight on the host, and its rows as embeddings.
//!
//! Rows are unpacked a few at a time into scratch that fits the cache; the weight is never whole.
//! Each output is summed in the same order whatever the number of threads or of inputs.
//!
//! Letters: `o` rows of the weight, `i` columns, `m` inputs.

use rayon::prelude::*;

use crate::error::FormatError;
use crate::format::Format;

/// Partial sums of a dot product: two SSE or one AVX register.
const LANES: usize = 8;

/// Rows unpacked and multiplied together, so that each input is loaded once for all of them.
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
                    if rows == ROWS {
                        let [a, b, c, d] = [0, 1, 2, 3].map(|r| &w[r * i..][..i]);
                        for (r, sum) in dots([a, b, c, d], x).into_iter().enumerate() {
                            y_om[r * m + k] = sum;
                        }
                    } else {
                        for r in 0..rows {
                            [y_om[r * m + k]] = dots([&w[r * i..][..i]], x);
                        }
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

/// Dot products of `R` rows with `x`, all of one length.
#[inline(always)]
fn dots<const R: usize>(rows: [&[f32]; R], x: &[f32]) -> [f32; R] {
    let (x_chunks, x_tail) = x.as_chunks::<LANES>();
    let rows = rows.map(|row| row[..x.len()].as_chunks::<LANES>());
    let mut sums = [[0.0; LANES]; R];
    for (k, x) in x_chunks.iter().enumerate() {
        let w = rows.map(|(chunks, _)| chunks[k]);
        for (sums, w) in sums.iter_mut().zip(&w) {
            for lane in 0..LANES {
                sums[lane] += w[lane] * x[lane];
            }
        }
    }
    let mut totals = [0.0; R];
    for ((total, sums), (_, tail)) in totals.iter_mut().zip(&sums).zip(&rows) {
        *total = sums.iter().sum::<f32>();
        *total += tail.iter().zip(x_tail).map(|(w, x)| w * x).sum::<f32>();
    }
    totals
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
