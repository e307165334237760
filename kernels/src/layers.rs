//! What a pass computes between its products, on the host: norms, rotations, gates and attention.
//!
//! Each is one walk over its values, where operations on whole tensors take one for each step of the formula. Work is spread over the current
//! rayon pool where there is enough of it; the parts do not depend on the number of threads, so the bits do not either.

pub mod attend;
pub mod gate;
pub mod norm;
pub mod rotate;

use rayon::prelude::*;

/// Values that a thread is woken for.
const JOB: usize = 1 << 14;

/// Calls `row` with each row of `len` values and its number, in several threads where there are many.
fn rows(values: &mut [f32], len: usize, row: impl Fn(usize, &mut [f32]) + Sync) {
    if len == 0 {
        return;
    }
    let together = (JOB / len).max(1);
    let job = |(nth, values): (usize, &mut [f32])| {
        for (k, values) in values.chunks_mut(len).enumerate() {
            row(nth * together + k, values);
        }
    };
    // Nobody is woken for one job.
    if values.len() <= together * len {
        return job((0, values));
    }
    let jobs = values.par_chunks_mut(together * len).enumerate();
    jobs.for_each(job);
}
