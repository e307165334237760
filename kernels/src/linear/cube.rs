//! The device half of products with a packed weight.

use cubecl::prelude::*;

use crate::device::read::{self, Stored};

/// `y = x * transpose(w)`, with `x` `[m, i]` and `y` `[m, o]`. One unit an output.
#[cube(launch)]
pub(crate) fn linear<F: Numeric>(
    stored: &Stored,
    x: &[F],
    rows: u32,
    y: &mut [F],
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= y.len() {
        terminate!();
    }
    let (rows, cols) = (rows as usize, stored.cols as usize);
    let (k, r) = (ABSOLUTE_POS / rows, ABSOLUTE_POS % rows);
    let mut sum = 0.0f32;
    for c in 0..cols {
        sum += read::weight(stored, r, c) * f32::cast_from(x[k * cols + c]);
    }
    y[ABSOLUTE_POS] = F::cast_from(sum);
}
