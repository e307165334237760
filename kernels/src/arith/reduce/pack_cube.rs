//! The device half of sums in PyTorch's order.
//!
//! The cascade is a tree: columns do not meet before its end, and a level's partial sum is a sum of `2^step` of those
//! below, from the first to the last. So every level is one kernel with a unit for each such sum, and what is left over
//! of every level, at most `2^step` numbers, is added at the end.

use cubecl::{client::Client, prelude::*};

use super::{LANES, LEVELS, SIDE_BY_SIDE, ceil_log2};
use crate::arith::exact;
use crate::arith::launch::{self, Buffer};

/// The sum of `values[first]`, `values[first + columns]` and so on, `count` of them, in this order from `start` on.
#[cube]
fn sum_column(values: &[u32], first: usize, count: usize, columns: usize, start: u32) -> u32 {
    let mut sum = start;
    for k in 0..count {
        sum = exact::add(sum, values[first + k * columns]);
    }
    sum
}

/// Sums of `2^step` rows each of `[rows, columns]`; fewer rows at the end are left over.
#[cube(launch)]
fn level_kernel(values: &[u32], sums: &mut [u32], columns: u32, step: u32) {
    let columns = columns as usize;
    if ABSOLUTE_POS < sums.len() {
        let rows = 1usize << step as usize;
        let first = ABSOLUTE_POS / columns * rows * columns + ABSOLUTE_POS % columns;
        sums[ABSOLUTE_POS] = sum_column(values, first, rows, columns, 0u32);
    }
}

/// The sums that are left over of each level, and all of the last, added up column by column.
#[cube(launch)]
fn columns_kernel(
    level0: &[u32],
    level1: &[u32],
    level2: &[u32],
    level3: &[u32],
    partials: &mut [u32],
    rows: u32,
    step: u32,
) {
    let columns = partials.len();
    if ABSOLUTE_POS < columns {
        let column = ABSOLUTE_POS;
        let (rows, step) = (rows as usize, step as usize);
        let mask = (1usize << step) - 1;
        let (rows1, rows2, rows3) = (rows >> step, rows >> (2 * step), rows >> (3 * step));
        let (left0, left1, left2) = (rows & mask, rows1 & mask, rows2 & mask);
        let sum0 = sum_column(
            level0,
            (rows - left0) * columns + column,
            left0,
            columns,
            0u32,
        );
        let sum1 = sum_column(
            level1,
            (rows1 - left1) * columns + column,
            left1,
            columns,
            0u32,
        );
        let sum2 = sum_column(
            level2,
            (rows2 - left2) * columns + column,
            left2,
            columns,
            0u32,
        );
        let sum3 = sum_column(level3, column, rows3, columns, 0u32);
        partials[column] = exact::add(exact::add(exact::add(sum0, sum1), sum2), sum3);
    }
}

/// The mean from the sums of columns, in the last word of `out`: one unit. `count` is the number of values as a float.
#[cube(launch)]
fn mean_kernel(values: &[u32], partials: &[u32], out: &mut [u32], count: u32) {
    if ABSOLUTE_POS == 0 {
        let n = values.len();
        let mut sum = partials[0];
        if n < LANES {
            let first = n / SIDE_BY_SIDE * SIDE_BY_SIDE;
            sum = sum_column(values, first, n - first, 1usize, sum);
            sum = sum_column(partials, 1usize, comptime!(SIDE_BY_SIDE - 1), 1usize, sum);
        } else {
            let columns = comptime!(SIDE_BY_SIDE * LANES);
            let (first, vectors) = (n / columns * columns, n % columns / LANES);
            let tail = n % LANES;
            sum = sum_column(values, n - tail, tail, 1usize, 0u32);
            for lane in 0..LANES {
                let lane_sum = sum_column(values, first + lane, vectors, LANES, partials[lane]);
                let lane_sum = sum_column(
                    partials,
                    LANES + lane,
                    comptime!(SIDE_BY_SIDE - 1),
                    LANES,
                    lane_sum,
                );
                sum = exact::add(sum, lane_sum);
            }
        }
        let last = out.len() - 1;
        out[last] = exact::div(sum, count);
    }
}

/// The mean of one value or more, in the last word of `out`.
pub(crate) fn mean(client: &Client, values: &Buffer, out: &Buffer) {
    let n = values.len();
    let columns = if n < LANES {
        SIDE_BY_SIDE
    } else {
        SIDE_BY_SIDE * LANES
    };
    let rows = n / columns;
    let step = (ceil_log2(rows) / LEVELS as u32).max(4);

    let mut levels = vec![values.clone()];
    for level in 1..LEVELS as u32 {
        let sums = Buffer::empty(client, (rows >> (level * step)) * columns, 4);
        if !sums.is_empty() {
            let (count, dim) = launch::grid(client, sums.len());
            let below = &levels[levels.len() - 1];
            level_kernel::launch(
                client,
                count,
                dim,
                below.arg(1),
                sums.arg(1),
                launch::count(columns),
                step,
            );
        }
        levels.push(sums);
    }
    // A level without sums still wants something to bind, and is not read.
    let bound = |level: usize| {
        let sums = &levels[level];
        if sums.is_empty() { values } else { sums }.arg(1)
    };
    let partials = Buffer::empty(client, columns, 4);
    let (count, dim) = launch::grid(client, columns);
    columns_kernel::launch(
        client,
        count,
        dim,
        bound(0),
        bound(1),
        bound(2),
        bound(3),
        partials.arg(1),
        launch::count(rows),
        step,
    );
    let (count, dim) = launch::grid(client, 1);
    mean_kernel::launch(
        client,
        count,
        dim,
        values.arg(1),
        partials.arg(1),
        out.arg(1),
        (n as f32).to_bits(),
    );
}
