//! Kernels that give weights back.

use cubecl::prelude::*;

use super::read::{self, EIGHT, StoredBuffers};
use crate::formats::bits4;

/// Weights from `first` on, as many as `out` takes; a unit gives one weight, or one eight.
#[cube(launch_unchecked)]
pub(super) fn dequantize<F: Numeric, N: Size>(
    stored: &StoredBuffers,
    first: u32,
    out: &mut [Vector<F, N>],
    #[comptime] eights: bool,
    #[comptime] shared: Option<[u32; 16]>,
    #[define(F)] _dtype: ElemType,
) {
    if comptime!(shared.is_some()) {
        let levels = bits4::cube::levels(comptime!(shared.unwrap()));
        dequantize_with::<F, N>(stored, &levels, first as usize, out, eights);
    } else {
        dequantize_with::<F, N>(stored, &stored.levels, first as usize, out, eights);
    }
}

#[cube]
fn dequantize_with<F: Numeric, N: Size>(
    stored: &StoredBuffers,
    levels: &[f32],
    first: usize,
    out: &mut [Vector<F, N>],
    #[comptime] eights: bool,
) {
    let size = N::value();
    let vectors = comptime!(if eights { EIGHT / size } else { 1 });
    let at = ABSOLUTE_POS * vectors;
    if at < out.len() {
        let k = first + at * size;
        let cols = stored.cols as usize;
        let (r, c) = (k / cols, k % cols);
        if eights {
            eight::<F, N>(stored, levels, r, c, out, at);
        } else {
            out[at] = Vector::cast_from(read::weight(stored, levels, r, c));
        }
    }
}

/// The rows `ids`, of which there are `rows`; an id is `id_words` words. A unit gives one weight, or one
/// eight.
#[cube(launch_unchecked)]
pub(super) fn rows<F: Numeric, N: Size>(
    stored: &StoredBuffers,
    rows: u32,
    ids: &[u32],
    out: &mut [Vector<F, N>],
    #[comptime] id_words: usize,
    #[comptime] eights: bool,
    #[comptime] shared: Option<[u32; 16]>,
    #[define(F)] _dtype: ElemType,
) {
    if comptime!(shared.is_some()) {
        let levels = bits4::cube::levels(comptime!(shared.unwrap()));
        rows_with::<F, N>(stored, &levels, rows, ids, out, id_words, eights);
    } else {
        rows_with::<F, N>(stored, &stored.levels, rows, ids, out, id_words, eights);
    }
}

#[cube]
fn rows_with<F: Numeric, N: Size>(
    stored: &StoredBuffers,
    levels: &[f32],
    rows: u32,
    ids: &[u32],
    out: &mut [Vector<F, N>],
    #[comptime] id_words: usize,
    #[comptime] eights: bool,
) {
    let size = N::value();
    let vectors = comptime!(if eights { EIGHT / size } else { 1 });
    let at = ABSOLUTE_POS * vectors;
    if at < out.len() {
        let k = at * size;
        let cols = stored.cols as usize;
        let (slot, c) = (k / cols * id_words, k % cols);
        // Ids in range have no upper word, and no sign.
        let mut id = ids[slot];
        if comptime!(id_words == 2) {
            id = select(ids[slot + 1] == 0, id, rows);
        }
        if id >= rows {
            #[unroll]
            for v in 0..vectors {
                out[at + v] = Vector::cast_from(f32::reinterpret(0x7fc0_0000u32));
            }
        } else if eights {
            eight::<F, N>(stored, levels, id as usize, c, out, at);
        } else {
            out[at] = Vector::cast_from(read::weight(stored, levels, id as usize, c));
        }
    }
}

/// The eight in row `r` from column `c` on, into `out` from vector `at` on.
#[cube]
fn eight<F: Numeric, N: Size>(
    stored: &StoredBuffers,
    levels: &[f32],
    r: usize,
    c: usize,
    out: &mut [Vector<F, N>],
    at: usize,
) {
    let k = r * stored.cols as usize + c;
    let codes = read::codes(stored, k / EIGHT);
    let scale = read::scale(stored, r, c, k);
    let size = N::value();
    #[unroll]
    for v in 0..comptime!(EIGHT / size) {
        let mut values = Vector::<F, N>::empty();
        #[unroll]
        for lane in 0..size {
            let t = comptime!(v * size + lane);
            let number = read::number(&codes, t, levels, stored.format);
            values.insert(lane, F::cast_from(read::scaled(stored, number, &scale)));
        }
        out[at + v] = values;
    }
}
