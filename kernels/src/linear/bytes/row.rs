//! Products of bytes with one input: codes are unpacked in registers, sixteen rows at a time.

use core::arch::x86_64::*;

use pulp::cast;

use super::inputs::ByteInputs;
use super::weight::{BLOCK, ByteCodes, ByteWeight, Params, beside};
use super::x86::has_vnni;
use crate::arith::pack;

/// Rows side by side: lanes of the sums.
const ROWS: usize = 16;

/// Columns of a vector.
const COLS: usize = 64;

/// The bytes of an input in the order of the weight's.
pub(super) struct RowInput {
    /// `[cols / 64]`.
    bytes: Vec<[i8; COLS]>,
}

/// Scales and offsets of sixteen rows, block by block.
#[derive(Default)]
pub(super) struct RowParams {
    scales: Vec<[f32; ROWS]>,
    offsets: Vec<[f32; ROWS]>,
    params: Params,
}

impl RowInput {
    /// The input, if the processor and the weight allow it.
    pub(super) fn new(weight: &ByteWeight<'_>, x: &ByteInputs) -> Option<Self> {
        let fours = match weight.codes {
            ByteCodes::Fours(_) => true,
            ByteCodes::Eights(_) => false,
            ByteCodes::Stream(_) | ByteCodes::Values => return None,
        };
        let i = weight.shape[1];
        let fit = x.len() == 1 && i.is_multiple_of(BLOCK) && weight.block >= COLS / 2;
        if !fit || !has_vnni() || !is_x86_feature_detected!("avx512bw") {
            return None;
        }
        let mut bytes = x.panel::<1>(0).bytes.as_flattened().as_flattened().to_vec();
        if fours {
            // Even columns, then odd ones: as the low nibbles and the high ones lie.
            for bytes in bytes.as_chunks_mut::<COLS>().0 {
                let from = *bytes;
                for (k, byte) in from.into_iter().enumerate() {
                    bytes[k % 2 * (COLS / 2) + k / 2] = byte;
                }
            }
        }
        let bytes = bytes.as_chunks().0.to_vec();
        Some(Self { bytes })
    }
}

/// Products of as many rows from `first` on as whole sixteens are in `y`; gives how many those are.
pub(super) fn products(
    weight: &ByteWeight<'_>,
    first: usize,
    params: &mut RowParams,
    x: &ByteInputs,
    row: &RowInput,
    y: &mut [f32],
) -> usize {
    let sixteens = y.as_chunks_mut::<ROWS>().0;
    for (k, y) in sixteens.iter_mut().enumerate() {
        let first = first + ROWS * k;
        params.fill(weight, first);
        // SAFETY: a `RowInput` is made only where the processor has the instructions.
        *y = unsafe { sixteen(weight, first, params, x, row) };
    }
    ROWS * sixteens.len()
}

impl RowParams {
    fn fill(&mut self, weight: &ByteWeight<'_>, first: usize) {
        for all in [&mut self.scales, &mut self.offsets] {
            all.resize(weight.blocks, [0.0; ROWS]);
        }
        let Self {
            scales,
            offsets,
            params,
        } = self;
        weight.params(first, ROWS, params);
        let (groups, together) = (weight.groups(), weight.group.div_ceil(weight.block));
        beside(&params.scales, groups, together, scales);
        if weight.has_offsets() {
            beside(&params.offsets, groups, together, offsets);
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn sixteen(
    weight: &ByteWeight<'_>,
    first: usize,
    params: &RowParams,
    x: &ByteInputs,
    row: &RowInput,
) -> [f32; ROWS] {
    match weight.codes {
        ByteCodes::Fours(table) => {
            let table = _mm512_broadcast_i32x4(cast(table));
            let (low, shift) = (
                _mm512_set1_epi8(15),
                _mm512_setr_epi64(0, 0, 0, 0, 4, 4, 4, 4),
            );
            let unpack = |bytes: &[u8; COLS / 2]| {
                let both = _mm512_broadcast_i64x4(cast(*bytes));
                let codes = _mm512_and_si512(_mm512_srlv_epi64(both, shift), low);
                _mm512_shuffle_epi8(table, codes)
            };
            // A quarter of each half is of the first block.
            sixteen_of(weight, first, params, x, row, [0, 2, 1, 3], unpack)
        }
        ByteCodes::Eights(flip) => {
            let flip = _mm512_set1_epi8(flip as i8);
            let unpack = |bytes: &[u8; COLS]| _mm512_xor_si512(cast(*bytes), flip);
            sixteen_of(weight, first, params, x, row, [0, 1, 2, 3], unpack)
        }
        ByteCodes::Stream(_) | ByteCodes::Values => unreachable!("a `RowInput` is of other codes"),
    }
}

/// Sixteen rows, of which `unpack` makes [`COLS`] bytes of `N`. Where a vector has two blocks, quarters `order` are those
/// of the first, then those of the second.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn sixteen_of<const N: usize>(
    weight: &ByteWeight<'_>,
    first: usize,
    params: &RowParams,
    x: &ByteInputs,
    row: &RowInput,
    order: [usize; 4],
    unpack: impl Fn(&[u8; N]) -> __m512i,
) -> [f32; ROWS] {
    let vectors = row.bytes.len();
    let bytes = pack::as_bytes(weight.words);
    let all = bytes[first * vectors * N..].as_chunks::<N>().0;
    let rows: [&[[u8; N]]; ROWS] = core::array::from_fn(|r| &all[r * vectors..][..vectors]);
    let x = x.panel::<1>(0);
    let mut totals = _mm512_setzero_ps();
    let mut add = |block: usize, sums: __m512i| {
        let sums = _mm512_add_epi32(sums, _mm512_set1_epi32(x.starts[block][0]));
        let by = _mm512_set1_ps(x.scales[block][0]);
        let factor = _mm512_mul_ps(cast(params.scales[block]), by);
        totals = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums), factor, totals);
        if weight.has_offsets() {
            let by = _mm512_set1_ps(x.sums[block][0]);
            totals = _mm512_fmadd_ps(cast(params.offsets[block]), by, totals);
        }
    };
    let together = weight.block.div_ceil(COLS);
    for (turn, x) in row.bytes.chunks_exact(together).enumerate() {
        let mut sums = [_mm512_setzero_si512(); ROWS];
        for (k, x) in (turn * together..).zip(x) {
            let x = cast(*x);
            for r in 0..ROWS {
                let bytes = &rows[r][k];
                // The same place of the rows after these, which the nearest cache does not hold with these.
                let ahead = bytes.as_ptr().wrapping_add(ROWS * vectors * N);
                _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
                sums[r] = _mm512_dpbusd_epi32(sums[r], unpack(bytes), x);
            }
        }
        let quarters = quarters(sums);
        let [a, b, c, d] = order.map(|quarter| quarters[quarter]);
        let (early, late) = (_mm512_add_epi32(a, b), _mm512_add_epi32(c, d));
        if weight.block < COLS {
            add(2 * turn, early);
            add(2 * turn + 1, late);
        } else {
            add(turn, _mm512_add_epi32(early, late));
        }
    }
    cast(totals)
}

/// Sums over each quarter of sixteen vectors, a lane for each vector.
#[target_feature(enable = "avx512f")]
fn quarters(sums: [__m512i; ROWS]) -> [__m512i; 4] {
    let mut twos = [sums[0]; ROWS / 2];
    for (to, two) in twos.iter_mut().zip(sums.as_chunks::<2>().0) {
        let [a, b] = *two;
        *to = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    }
    let mut fours = [sums[0]; ROWS / 4];
    for (to, two) in fours.iter_mut().zip(twos.as_chunks::<2>().0) {
        let [a, b] = *two;
        *to = _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
    }
    // Quarters of four vectors are exchanged as a matrix is transposed.
    let [a, b, c, d] = fours;
    let (ab, cd) = (
        _mm512_shuffle_i32x4::<0x44>(a, b),
        _mm512_shuffle_i32x4::<0x44>(c, d),
    );
    let (upper_ab, upper_cd) = (
        _mm512_shuffle_i32x4::<0xee>(a, b),
        _mm512_shuffle_i32x4::<0xee>(c, d),
    );
    [
        _mm512_shuffle_i32x4::<0x88>(ab, cd),
        _mm512_shuffle_i32x4::<0xdd>(ab, cd),
        _mm512_shuffle_i32x4::<0x88>(upper_ab, upper_cd),
        _mm512_shuffle_i32x4::<0xdd>(upper_ab, upper_cd),
    ]
}
