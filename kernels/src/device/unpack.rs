//! Kernels that give weights back.

use cubecl::prelude::*;

use super::read::{self, Stored};

/// Weights from `first` on, as many as `out` takes. One unit a weight.
#[cube(launch)]
pub(super) fn dequantize<F: Numeric>(
    stored: &Stored,
    first: u32,
    out: &mut [F],
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS < out.len() {
        let k = first as usize + ABSOLUTE_POS;
        let cols = stored.cols as usize;
        out[ABSOLUTE_POS] = F::cast_from(read::weight(stored, k / cols, k % cols));
    }
}

/// The rows `ids`, of which there are `rows`; an id is `id_words` words. One unit a weight.
#[cube(launch)]
pub(super) fn rows<F: Numeric>(
    stored: &Stored,
    rows: u32,
    ids: &[u32],
    out: &mut [F],
    #[comptime] id_words: usize,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= out.len() {
        terminate!();
    }
    let cols = stored.cols as usize;
    let (at, c) = (ABSOLUTE_POS / cols * id_words, ABSOLUTE_POS % cols);
    // The upper word of an id is 0 in every id in range, and so are its upper bits.
    let mut id = ids[at];
    if comptime!(id_words == 2) {
        id = select(ids[at + 1] == 0, id, rows);
    }
    let mut value = f32::reinterpret(0x7fc0_0000u32);
    if id < rows {
        value = read::weight(stored, id as usize, c);
    }
    out[ABSOLUTE_POS] = F::cast_from(value);
}
