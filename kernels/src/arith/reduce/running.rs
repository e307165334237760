//! The sum of values that come one after another and are not stored.

use super::{LANES, LEVELS, ROW, add, step, sum, total};

/// Adds up values in the order of [`sum`], which depends on how many there will be.
#[derive(Debug, Clone)]
pub(crate) struct RunningSum {
    step: u32,
    /// Values so far.
    count: usize,
    /// Partial sums, as in [`cascade`](super::cascade).
    levels: [[f32; ROW]; LEVELS],
    /// The values of a row that is not full yet: `count % ROW` of them.
    row: [f32; ROW],
}

impl RunningSum {
    /// Nothing yet, of `n` values.
    pub(crate) const fn new(n: usize) -> Self {
        Self {
            step: step(n / ROW),
            count: 0,
            levels: [[0.0; ROW]; LEVELS],
            row: [0.0; ROW],
        }
    }

    /// How many values make a chunk, in a sum of `n`: from a multiple of it on, that many may be added up by
    /// [`chunk_sum`] apart from all others.
    pub(crate) const fn chunk(n: usize) -> usize {
        ROW << step(n / ROW)
    }

    /// The next values.
    pub(crate) fn push(&mut self, values: &[f32]) {
        let filled = self.count % ROW;
        let (head, rest) = values.split_at(values.len().min((ROW - filled) % ROW));
        self.row[filled..][..head.len()].copy_from_slice(head);
        self.count += head.len();
        if !head.is_empty() && self.count.is_multiple_of(ROW) {
            let row = self.row;
            self.add(&row, 1);
        }
        let (rows, tail) = rest.as_chunks::<ROW>();
        for row in rows {
            self.count += ROW;
            self.add(row, 1);
        }
        self.row[..tail.len()].copy_from_slice(tail);
        self.count += tail.len();
    }

    /// The next chunk, as [`chunk_sum`] gives it, where a chunk begins.
    pub(crate) fn push_chunk(&mut self, sums: &[f32; ROW]) {
        let rows = 1 << self.step;
        debug_assert!(self.count.is_multiple_of(rows * ROW), "inside a chunk");
        self.count += rows * ROW;
        self.add(sums, rows);
    }

    /// Adds a row, or the sum of the rows of a chunk, and empties levels that are full.
    fn add(&mut self, row: &[f32; ROW], rows: usize) {
        let levels = &mut self.levels;
        if rows == 1 {
            add(&mut levels[0], row);
        } else {
            levels[0] = *row;
        }
        let taken = self.count / ROW;
        let mask = (1 << self.step) - 1;
        if taken & mask != 0 {
            return;
        }
        for level in 1..LEVELS {
            let lower = core::mem::replace(&mut levels[level - 1], [0.0; ROW]);
            add(&mut levels[level], &lower);
            if taken & (mask << (level as u32 * self.step)) != 0 {
                break;
            }
        }
    }

    /// The sum.
    pub(crate) fn finish(&self) -> f32 {
        let left = &self.row[..self.count % ROW];
        if self.count < LANES {
            return sum(left);
        }
        let [mut partials, upper @ ..] = self.levels;
        for level in &upper {
            add(&mut partials, level);
        }
        total(&partials, left)
    }
}

/// The column sums of the rows of a chunk.
#[inline(always)]
pub(crate) fn chunk_sum(chunk: &[f32]) -> [f32; ROW] {
    let mut sums = [0.0; ROW];
    for row in chunk.as_chunks::<ROW>().0 {
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum += value;
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the sum of them all, whose bits are PyTorch's: in pieces of any size, and in chunks with pieces
    /// before and after them.
    #[test]
    fn pieces_add_up_to_the_sum() {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 1e6 - 3.0
        };
        let values: Vec<f32> = (0..300_000).map(|_| next()).collect();
        for n in [
            0, 1, 7, 8, 31, 32, 33, 511, 512, 513, 8192, 8200, 70_001, 300_000,
        ] {
            let values = &values[..n];
            for piece in [1, 7, 32, 100, 5000] {
                let mut running = RunningSum::new(n);
                values.chunks(piece).for_each(|piece| running.push(piece));
                let found = running.finish();
                assert_eq!(found.to_bits(), sum(values).to_bits(), "{n} by {piece}");
            }
            let mut running = RunningSum::new(n);
            let chunks = values.chunks_exact(RunningSum::chunk(n));
            let tail = chunks.remainder();
            chunks.for_each(|chunk| running.push_chunk(&chunk_sum(chunk)));
            running.push(tail);
            assert_eq!(running.finish().to_bits(), sum(values).to_bits(), "{n}");
        }
    }
}
