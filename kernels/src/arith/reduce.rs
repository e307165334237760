//! Sums of `f32` in the order PyTorch adds them, so that a mean has PyTorch's bits.
//!
//! Float addition is not associative, and the offset of nested scales ([`nested`](crate::formats::nested)) is
//! a mean over thousands of scales: another order is another offset, and another checkpoint.
//!
//! The order is that of `aten/src/ATen/native/cpu/SumKernel.cpp` (PyTorch 2.x) for one contiguous
//! dimension, eight lanes (x86-64 with AVX2, where AVX-512 machines give the same bits) and one
//! thread. PyTorch splits sums of 32768 values and more over its threads; we take the order of one
//! thread, since it is the one that does not depend on the machine.

#[cfg(feature = "cube")]
pub(crate) mod pack_cube;
pub(crate) mod running;

use crate::arith::lanes::for_processors;

/// Lanes of PyTorch's vector on x86-64.
const LANES: usize = 8;

/// Vectors (or scalars) that PyTorch sums side by side.
const SIDE_BY_SIDE: usize = 4;

/// Values of a row: PyTorch sums them side by side.
pub(crate) const ROW: usize = SIDE_BY_SIDE * LANES;

/// Levels of partial sums in the cascade.
const LEVELS: usize = 4;

/// [`sum`] as a part of vector code.
#[inline(always)]
pub(crate) fn sum_here(values: &[f32]) -> f32 {
    if values.len() < LANES {
        // [rows, 4] scalars
        let (rows, left) = values.as_chunks::<SIDE_BY_SIDE>();
        let mut partials = cascade(rows);
        for value in left {
            partials[0] += value;
        }
        return partials[1..]
            .iter()
            .fold(partials[0], |sum, partial| sum + partial);
    }

    // [rows, 4 * 8], then up to three vectors of 8, then up to seven scalars
    let (rows, left) = values.as_chunks::<ROW>();
    total(&cascade(rows), left)
}

/// The sum of the columns of whole rows, and of the rest of a row.
#[inline(always)]
fn total(partials: &[f32; ROW], left: &[f32]) -> f32 {
    let (left, tail) = left.as_chunks::<LANES>();
    let (sides, _) = partials.as_chunks::<LANES>();
    let mut lanes = sides[0];
    left.iter().for_each(|vector| add(&mut lanes, vector));
    sides[1..].iter().for_each(|side| add(&mut lanes, side));
    // The scalars come first.
    let tail = tail.iter().fold(0.0, |sum, value| sum + value);
    lanes.iter().fold(tail, |sum, lane| sum + lane)
}

for_processors! {
    /// `values.sum()` of a contiguous tensor: the part of [`mean`] that has an order.
    pub fn sum(values: &[f32]) -> f32 {
        sum_here(values)
    }
}

/// `values.mean()` of a contiguous tensor; NaN for an empty one.
pub fn mean(values: &[f32]) -> f32 {
    sum(values) / values.len() as f32
}

/// [`mean`] as a part of vector code.
#[inline(always)]
pub(crate) fn mean_here(values: &[f32]) -> f32 {
    sum_here(values) / values.len() as f32
}

/// Column sums of `[rows, N]` through four levels of partial sums: level 0 takes `2^step` rows, then
/// empties into level 1, that one after `2^step` times into level 2, and so on.
#[inline(always)]
fn cascade<const N: usize>(rows: &[[f32; N]]) -> [f32; N] {
    let step = step(rows.len());
    let whole = rows.len() >> step << step;
    if whole == 0 {
        // The upper levels stay empty, and adding nothing to a sum that began with 0 changes nothing.
        let mut sum = [0.0; N];
        rows.iter().for_each(|row| add(&mut sum, row));
        return sum;
    }

    let mut levels = [[0.0f32; N]; LEVELS];
    for (chunk, rows) in rows[..whole].chunks(1 << step).enumerate() {
        for row in rows {
            add(&mut levels[0], row);
        }
        let taken = (chunk + 1) << step;
        for level in 1..LEVELS {
            let lower = core::mem::replace(&mut levels[level - 1], [0.0; N]);
            add(&mut levels[level], &lower);
            if taken & (((1 << step) - 1) << (level as u32 * step)) != 0 {
                break;
            }
        }
    }
    for row in &rows[whole..] {
        add(&mut levels[0], row);
    }

    let [mut sum, upper @ ..] = levels;
    for level in &upper {
        add(&mut sum, level);
    }
    sum
}

/// The columns' means of a `[r, c]` matrix, of which these are up to 32 neighbouring columns, `[r, 32]`. Of those,
/// PyTorch sums `whole` at once, the others in four interleaved sums.
#[inline(always)]
pub(crate) fn column_means(rows: &[[f32; ROW]], whole: usize) -> [f32; ROW] {
    let mut sums = if whole > 0 { cascade(rows) } else { [0.0; ROW] };
    if whole < ROW {
        let (fours, left) = rows.as_flattened().as_chunks::<{ SIDE_BY_SIDE * ROW }>();
        let partials = cascade(fours);
        for (column, sum) in sums.iter_mut().enumerate().skip(whole) {
            let first = left.iter().skip(column).step_by(ROW);
            *sum = first.fold(partials[column], |sum, value| sum + value);
            for side in 1..SIDE_BY_SIDE {
                *sum += partials[side * ROW + column];
            }
        }
    }
    sums.map(|sum| sum / rows.len() as f32)
}

/// How many of the `c` columns of a matrix PyTorch sums at once, from the first on. A single column it sums as
/// [`sum`] does.
pub(crate) const fn whole_columns(c: usize) -> usize {
    if c < LANES {
        c / SIDE_BY_SIDE * SIDE_BY_SIDE
    } else {
        c / ROW * ROW
    }
}

/// The base-2 logarithm of how often each level is added to before it is emptied.
const fn step(rows: usize) -> u32 {
    let step = ceil_log2(rows) / LEVELS as u32;
    if step > 4 { step } else { 4 }
}

#[inline(always)]
fn add<const N: usize>(sums: &mut [f32; N], row: &[f32; N]) {
    for (sum, value) in sums.iter_mut().zip(row) {
        *sum += value;
    }
}

/// PyTorch's `CeilLog2`, which is 1 for 0 and 1.
const fn ceil_log2(x: usize) -> u32 {
    if x <= 2 {
        1
    } else {
        usize::BITS - (x - 1).leading_zeros()
    }
}
