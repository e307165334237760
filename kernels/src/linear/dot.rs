//! Products of unpacked rows with inputs.
//!
//! An output is one vector of partial sums over its row, sixteen columns at a time, whose lanes are added at the end:
//! the same whichever rows and inputs it is computed among.

use crate::arith::lanes::{self, LANES, Lanes};

/// Columns multiplied before those after them: as many as leave the inputs of a tile in the nearest cache.
const COLS: usize = 1024;

/// Rows and inputs of a tile. Their sums stay in registers where there are 32 of them.
const ROWS: usize = 4;
const INPUTS: usize = 6;

/// Partial sums of an output.
type Partials = [f32; LANES];

/// `y = w * transpose(x)`, with `w` `[rows, cols]`, `x` `[m, cols]`, `y` `[rows, m]` and whole vectors in a row. `sums` is
/// scratch.
#[inline(always)]
pub(super) fn products<L: Lanes>(
    lanes: L,
    w: &[f32],
    x: &[f32],
    cols: usize,
    sums: &mut Vec<Partials>,
    y: &mut [f32],
) {
    let (rows, m) = (w.len() / cols, x.len() / cols);
    let mut first = 0;
    while first < m {
        first += match m - first {
            INPUTS.. => panel::<L, INPUTS>(lanes, w, x, cols, first, sums, y),
            2.. => panel::<L, 2>(lanes, w, x, cols, first, sums, y),
            _ => panel::<L, 1>(lanes, w, x, cols, first, sums, y),
        };
    }
    debug_assert_eq!(y.len(), rows * m, "outputs of {rows} rows");
}

/// The inputs from `first` on with all rows; gives how many inputs that were.
#[inline(always)]
fn panel<L: Lanes, const M: usize>(
    lanes: L,
    w: &[f32],
    x: &[f32],
    cols: usize,
    first: usize,
    sums: &mut Vec<Partials>,
    y: &mut [f32],
) -> usize {
    let (rows, m) = (w.len() / cols, x.len() / cols);
    sums.clear();
    sums.resize(rows * M, [0.0; LANES]);
    let mut from = 0;
    while from < cols {
        let to = cols.min(from + COLS);
        let inputs = core::array::from_fn(|k| &x[(first + k) * cols..][from..to]);
        let row = |r: usize| &w[r * cols..][from..to];
        let mut r = 0;
        while r + ROWS <= rows {
            let rows = core::array::from_fn(|k| row(r + k));
            tile::<L, ROWS, M>(lanes, rows, inputs, &mut sums[r * M..]);
            r += ROWS;
        }
        while r < rows {
            tile::<L, 1, M>(lanes, [row(r)], inputs, &mut sums[r * M..]);
            r += 1;
        }
        from = to;
    }
    for (r, sums) in sums.as_chunks::<M>().0.iter().enumerate() {
        for (y, sums) in y[r * m + first..].iter_mut().zip(sums) {
            *y = lanes::sum(*sums);
        }
    }
    M
}

/// Adds products of `R` rows with `M` inputs to their sums, `[R, M]`.
#[inline(always)]
fn tile<L: Lanes, const R: usize, const M: usize>(
    lanes: L,
    w: [&[f32]; R],
    x: [&[f32]; M],
    sums: &mut [Partials],
) {
    let len = w[0].len() / LANES;
    let w = w.map(
        #[inline(always)]
        |w| &w.as_chunks::<LANES>().0[..len],
    );
    let x = x.map(
        #[inline(always)]
        |x| &x.as_chunks::<LANES>().0[..len],
    );
    let sums = &mut sums.as_chunks_mut::<M>().0[..R];
    let mut totals = [[lanes.splat(0.0); M]; R];
    for r in 0..R {
        for m in 0..M {
            totals[r][m] = lanes.load(&sums[r][m]);
        }
    }
    for k in 0..len {
        let mut rows = [lanes.splat(0.0); R];
        for r in 0..R {
            rows[r] = lanes.load(&w[r][k]);
        }
        for m in 0..M {
            let x = lanes.load(&x[m][k]);
            for r in 0..R {
                totals[r][m] = lanes.mul_add(rows[r], x, totals[r][m]);
            }
        }
    }
    for r in 0..R {
        for m in 0..M {
            lanes.store(totals[r][m], &mut sums[r][m]);
        }
    }
}
