//! Products of bytes with AVX-512's dot products of bytes, and with AVX2.

use core::arch::x86_64::*;

use pulp::cast;

use super::panels::{BytePanels, ROWS};

/// Whether the processor multiplies bytes and adds four products in one instruction.
pub(super) fn has_vnni() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni")
}

/// Whether the processor has AVX2 and multiplies and adds floats in one instruction.
pub(super) fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

/// [`vnni_here`].
pub(super) fn vnni<const M: usize>(panels: BytePanels<'_, M>) -> [[f32; ROWS]; M] {
    assert!(has_vnni(), "the processor was asked before");
    // SAFETY: the processor has the instructions, asked one line above.
    unsafe { vnni_here(panels) }
}

/// [`avx2_here`].
pub(super) fn avx2<const M: usize>(panels: BytePanels<'_, M>) -> [[f32; ROWS]; M] {
    assert!(has_avx2(), "the processor was asked before");
    // SAFETY: the processor has the instructions, asked one line above.
    unsafe { avx2_here(panels) }
}

/// Floats of a vector of AVX-512.
const WIDE: usize = 16;

/// Vectors of a panel's rows.
const WIDES: usize = ROWS / WIDE;

/// Products of all rows with the inputs, rows in lanes.
#[target_feature(enable = "avx512f,avx512vnni")]
fn vnni_here<const M: usize>(panels: BytePanels<'_, M>) -> [[f32; ROWS]; M] {
    let BytePanels {
        w,
        scales,
        offsets,
        x,
        fours,
    } = panels;
    let mut totals = [[_mm512_setzero_ps(); WIDES]; M];
    let blocks = w.chunks_exact(fours).zip(x.bytes.chunks_exact(fours));
    let params = scales.iter().zip(x.scales).zip(x.starts);
    for (block, ((w, bytes), ((scales, by), starts))) in blocks.zip(params).enumerate() {
        let mut sums = [[_mm512_setzero_si512(); WIDES]; M];
        for m in 0..M {
            sums[m] = [_mm512_set1_epi32(starts[m]); WIDES];
        }
        for (w, bytes) in w.iter().zip(bytes) {
            let w: [__m512i; WIDES] = cast(*w);
            for m in 0..M {
                let x = _mm512_set1_epi32(i32::from_le_bytes(cast(bytes[m])));
                for k in 0..WIDES {
                    sums[m][k] = _mm512_dpbusd_epi32(sums[m][k], w[k], x);
                }
            }
        }
        let scales: [__m512; WIDES] = cast(*scales);
        for m in 0..M {
            let by = _mm512_set1_ps(by[m]);
            for k in 0..WIDES {
                let factor = _mm512_mul_ps(scales[k], by);
                let sum = _mm512_cvtepi32_ps(sums[m][k]);
                totals[m][k] = _mm512_fmadd_ps(sum, factor, totals[m][k]);
            }
        }
        if let Some(offsets) = offsets.get(block) {
            let offsets: [__m512; WIDES] = cast(*offsets);
            for (totals, by) in totals.iter_mut().zip(x.sums[block]) {
                let by = _mm512_set1_ps(by);
                for k in 0..WIDES {
                    totals[k] = _mm512_fmadd_ps(offsets[k], by, totals[k]);
                }
            }
        }
    }
    totals.map(cast)
}

/// Floats of a vector of AVX2.
const NARROW: usize = 8;

/// The same, eight rows at a time. Bytes of a weight are moved down by 128 and multiplied as magnitudes: two products of
/// unsigned and signed bytes have to fit 16 bits.
#[target_feature(enable = "avx2,fma")]
fn avx2_here<const M: usize>(panels: BytePanels<'_, M>) -> [[f32; ROWS]; M] {
    let BytePanels {
        w,
        scales,
        offsets,
        x,
        fours,
    } = panels;
    let mut all = [[0.0; ROWS]; M];
    let ones = _mm256_set1_epi16(1);
    let middle = _mm256_set1_epi8(-128);
    for first in (0..ROWS).step_by(NARROW) {
        let mut totals = [_mm256_setzero_ps(); M];
        let blocks = w.chunks_exact(fours).zip(x.bytes.chunks_exact(fours));
        for (block, (w, bytes)) in blocks.enumerate() {
            let mut sums = [_mm256_setzero_si256(); M];
            for m in 0..M {
                // What the 128 would have added.
                let sum: i32 = bytes.iter().flat_map(|four| four[m]).map(i32::from).sum();
                sums[m] = _mm256_set1_epi32(x.starts[block][m] + 128 * sum);
            }
            for (w, bytes) in w.iter().zip(bytes) {
                let [w] = w[first..][..NARROW].as_chunks::<NARROW>().0 else {
                    continue;
                };
                let w = _mm256_xor_si256(cast(*w), middle);
                let size = _mm256_abs_epi8(w);
                for m in 0..M {
                    let x = _mm256_set1_epi32(i32::from_le_bytes(cast(bytes[m])));
                    let pairs = _mm256_maddubs_epi16(size, _mm256_sign_epi8(x, w));
                    sums[m] = _mm256_add_epi32(sums[m], _mm256_madd_epi16(pairs, ones));
                }
            }
            let load =
                |all: &[f32; ROWS]| -> __m256 { cast(all.as_chunks::<NARROW>().0[first / NARROW]) };
            let scales = load(&scales[block]);
            for m in 0..M {
                let factor = _mm256_mul_ps(scales, _mm256_set1_ps(x.scales[block][m]));
                totals[m] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[m]), factor, totals[m]);
            }
            if let Some(offsets) = offsets.get(block) {
                let offsets = load(offsets);
                for (total, by) in totals.iter_mut().zip(x.sums[block]) {
                    *total = _mm256_fmadd_ps(offsets, _mm256_set1_ps(by), *total);
                }
            }
        }
        for m in 0..M {
            all[m].as_chunks_mut::<NARROW>().0[first / NARROW] = cast(totals[m]);
        }
    }
    all
}
