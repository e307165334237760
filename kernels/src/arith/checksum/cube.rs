//! The device half of the checksum.

use cubecl::{client::Client, prelude::*};

use crate::arith::launch::{self, Buffer};

/// Partial sums, so that enough units work.
pub const SUMS: usize = 4096;

/// [`SUMS`] words whose sum is the checksum of `words`. No atomic and no shared memory: some software drivers
/// do not survive either.
pub fn partial_sums(client: &Client, words: &Buffer) -> Buffer {
    let sums = Buffer::empty(client, SUMS, size_of::<u32>());
    let (count, dim) = launch::grid(client, SUMS);
    // SAFETY: a unit beyond the last sum leaves, and each sum is written by one unit.
    unsafe {
        partial::launch_unchecked(client, count, dim, words.arg(1), sums.arg(1));
    }
    sums
}

#[cube(launch_unchecked)]
fn partial(words: &[u32], sums: &mut [u32]) {
    if ABSOLUTE_POS < SUMS {
        let mut sum = 0u32;
        let mut at = ABSOLUTE_POS;
        while at < words.len() {
            sum += words[at];
            at += SUMS;
        }
        sums[ABSOLUTE_POS] = sum;
    }
}
