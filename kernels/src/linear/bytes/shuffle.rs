//! Bytes and words moved with AVX2 and AVX-512.

use core::arch::x86_64::*;

use pulp::bytemuck::Pod;
use pulp::cast;

/// Words of a vector of AVX-512.
const WIDE: usize = 16;

/// Bytes of nibbles, the low one of each first; gives how many it made, which is all but the last few.
pub(super) fn unpack_fours(bytes: &[u8], table: &[u8; 16], out: &mut [u8]) -> usize {
    if !is_x86_feature_detected!("avx2") {
        return 0;
    }
    // SAFETY: the processor has the instructions, asked above.
    unsafe { unpack_fours_here(bytes, table, out) }
}

#[target_feature(enable = "avx2")]
fn unpack_fours_here(bytes: &[u8], table: &[u8; 16], out: &mut [u8]) -> usize {
    let table = _mm256_broadcastsi128_si256(cast(*table));
    let (low, out) = (_mm256_set1_epi8(15), out.as_chunks_mut::<32>().0);
    for (to, bytes) in out.iter_mut().zip(bytes.as_chunks::<16>().0) {
        // Each byte in sixteen bits; its upper nibble moves to the upper byte.
        let wide = _mm256_cvtepu8_epi16(cast(*bytes));
        let both = _mm256_or_si256(wide, _mm256_slli_epi16::<4>(wide));
        *to = cast(_mm256_shuffle_epi8(table, _mm256_and_si256(both, low)));
    }
    32 * out.len()
}

/// A matrix of sixteen by sixteen words, transposed.
#[target_feature(enable = "avx512f")]
fn transpose_here<T: Pod>(rows: [&[T; WIDE]; WIDE]) -> [[T; WIDE]; WIDE] {
    let mut words: [__m512i; WIDE] = rows.map(|row| cast(*row));
    // Words of two rows in turn, then pairs of four rows.
    let mut twos = words;
    for k in 0..WIDE / 2 {
        twos[2 * k] = _mm512_unpacklo_epi32(words[2 * k], words[2 * k + 1]);
        twos[2 * k + 1] = _mm512_unpackhi_epi32(words[2 * k], words[2 * k + 1]);
    }
    for k in 0..WIDE / 4 {
        let [a, b, c, d] = [0, 1, 2, 3].map(|j| twos[4 * k + j]);
        // Word `j` of each quarter of four rows.
        words[4 * k] = _mm512_unpacklo_epi64(a, c);
        words[4 * k + 1] = _mm512_unpackhi_epi64(a, c);
        words[4 * k + 2] = _mm512_unpacklo_epi64(b, d);
        words[4 * k + 3] = _mm512_unpackhi_epi64(b, d);
    }
    // Quarters.
    let mut out = [words[0]; WIDE];
    for j in 0..4 {
        let [a, b, c, d] = [0, 1, 2, 3].map(|k| words[4 * k + j]);
        let (ab, cd) = (
            _mm512_shuffle_i32x4::<0x44>(a, b),
            _mm512_shuffle_i32x4::<0x44>(c, d),
        );
        let (upper_ab, upper_cd) = (
            _mm512_shuffle_i32x4::<0xee>(a, b),
            _mm512_shuffle_i32x4::<0xee>(c, d),
        );
        out[j] = _mm512_shuffle_i32x4::<0x88>(ab, cd);
        out[4 + j] = _mm512_shuffle_i32x4::<0xdd>(ab, cd);
        out[8 + j] = _mm512_shuffle_i32x4::<0x88>(upper_ab, upper_cd);
        out[12 + j] = _mm512_shuffle_i32x4::<0xdd>(upper_ab, upper_cd);
    }
    out.map(cast)
}

/// Puts rows, each of as many words as `to` has rows of words, side by side; gives how many words of a row it did.
pub(super) fn interleave<const N: usize>(rows: &[&[[u8; 4]]; N], to: &mut [[[u8; 4]; N]]) -> usize {
    if !is_x86_feature_detected!("avx512f") {
        return 0;
    }
    let whole = to.len() / WIDE;
    for (k, to) in to.as_chunks_mut::<WIDE>().0.iter_mut().enumerate() {
        for half in 0..N / WIDE {
            let rows: [&[[u8; 4]; WIDE]; WIDE] =
                core::array::from_fn(|r| &rows[WIDE * half + r].as_chunks().0[k]);
            // SAFETY: the processor has the instructions, asked above.
            let words = unsafe { transpose_here(rows) };
            for (to, words) in to.iter_mut().zip(words) {
                to.as_chunks_mut::<WIDE>().0[half] = words;
            }
        }
    }
    WIDE * whole
}

/// Puts numbers `[N, groups]` side by side; gives how many groups it did.
pub(super) fn beside<const N: usize>(params: &[f32], groups: usize, to: &mut [[f32; N]]) -> usize {
    if !is_x86_feature_detected!("avx512f") {
        return 0;
    }
    let whole = to.len() / WIDE;
    for (k, to) in to.as_chunks_mut::<WIDE>().0.iter_mut().enumerate() {
        for half in 0..N / WIDE {
            let rows: [&[f32; WIDE]; WIDE] = core::array::from_fn(|r| {
                let row = &params[(WIDE * half + r) * groups..][..groups];
                &row.as_chunks().0[k]
            });
            // SAFETY: the processor has the instructions, asked above.
            let numbers = unsafe { transpose_here(rows) };
            for (to, numbers) in to.iter_mut().zip(numbers) {
                to.as_chunks_mut::<WIDE>().0[half] = numbers;
            }
        }
    }
    WIDE * whole
}
