//! The device half of the 4-bit formats.

use cubecl::{client::Client, prelude::*};

use super::Levels;
use crate::float::FloatBits;
use crate::launch::{self, Buffer};

/// One unit a word: eight weights.
#[cube(launch)]
fn dequantize_kernel<F: Numeric>(
    words: &[u32],
    scales: &[u32],
    levels: &[f32],
    out: &mut [F],
    #[comptime] block: usize,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= words.len() {
        terminate!();
    }
    let word = words[ABSOLUTE_POS];
    let scale = f32::reinterpret(scales[ABSOLUTE_POS * 8 / block]);
    #[unroll]
    for k in 0..8usize {
        let code = (word >> comptime!(4 * k as u32)) & 15u32;
        let at = ABSOLUTE_POS * 8 + k;
        if at < out.len() {
            out[at] = F::cast_from(levels[code as usize] * scale);
        }
    }
}

pub(crate) fn dequantize<L: Levels>(
    client: &Client,
    block: usize,
    n: usize,
    words: &Buffer,
    scales: &Buffer,
    dtype: FloatBits,
) -> Buffer {
    let out = Buffer::empty(client, n, dtype.size());
    let levels = Buffer::upload(client, &L::LEVELS.map(f32::to_bits));
    let (count, dim) = launch::grid(client, words.len());
    dequantize_kernel::launch(
        client,
        count,
        dim,
        words.arg(1),
        scales.arg(1),
        levels.arg(1),
        out.arg(1),
        block,
        launch::elem(dtype),
    );
    out
}

/// Trial.
pub fn nf4(
    client: &Client,
    block: usize,
    n: usize,
    words: &Buffer,
    scales: &Buffer,
    dtype: FloatBits,
) -> Buffer {
    dequantize::<crate::nf4::Nf4>(client, block, n, words, scales, dtype)
}
