//! Weights that are 16-bit floats: widened exactly, as they stand in the words.

use crate::arith::float::DType;
use crate::arith::lanes::{LANES, Lanes};
use crate::arith::number::Narrow;
use crate::arith::pack::HALVES;
use crate::format::{Half, PackedRows};

/// Widens rows until `out` is full.
#[inline(always)]
pub(crate) fn unpack<L: Lanes, T: Narrow>(
    lanes: L,
    half: Half,
    part: PackedRows<'_>,
    out: &mut [T],
) {
    let first = part.first_row * part.shape[1];
    // A row may begin inside a word: that value alone, then sixteen at a time.
    let head = out.len().min(first % HALVES);
    let (head, rest) = out.split_at_mut(head);
    let next = first + head.len();
    let (vectors, tail) = rest.as_chunks_mut::<LANES>();
    let words = part.words[part.words.len().min(next / HALVES)..].as_chunks();
    for (vector, words) in vectors.iter_mut().zip(words.0) {
        let values = match half {
            Half::F16 => lanes.widen_f16(words),
            Half::Bf16 => lanes.widen_bf16(words),
        };
        T::store(lanes, values, vector);
    }
    let last = next + LANES * vectors.len();
    for (k, to) in (first..).zip(head).chain((last..).zip(tail)) {
        *to = T::of(value(half.dtype(), part.words, k));
    }
}

/// The value `k`.
#[inline(always)]
fn value(dtype: DType, words: &[u32], k: usize) -> f32 {
    dtype.from_bits(words[k / HALVES] >> (16 * (k % HALVES)) & 0xffff)
}
