//! Products of bf16, added in `f32`: a processor with AVX512-BF16 multiplies two columns at once.
//!
//! Of each two columns that instruction adds the second product, then the first, to one lane. Elsewhere columns are put
//! into that order and multiplied as `f32`, which gives the same bits, but for numbers near the smallest, which the
//! instruction takes for zero.

use half::{bf16, slice::HalfBitsSliceExt};
use pulp::bytemuck::cast_slice_mut;

use super::dot::{InputPanels, Partials, Tiles};
use crate::arith::float::DType;
use crate::arith::lanes::{LANES, for_processors};

/// Columns of two vectors, or of a vector of pairs.
const PAIRS: usize = 2 * LANES;

/// Sixteen pairs of bf16, the first of each in the low half.
pub(super) type Bf16Pairs = [u32; LANES];

/// Inputs, and what multiplies them.
pub(super) enum Bf16Inputs {
    /// In pairs.
    #[cfg(target_arch = "x86_64")]
    Paired(PairTiles, InputPanels<Bf16Pairs>),
    /// As `f32`, second columns before first ones.
    Split(InputPanels<[f32; LANES]>),
}

impl Bf16Inputs {
    /// Inputs `[m, i]`, rounded.
    pub(super) fn new(x: &[f32], i: usize) -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(tiles) = PairTiles::new() {
            let order = |x: &[f32], to: &mut [Bf16Pairs]| round(x, bf16s(to));
            return Self::Paired(tiles, InputPanels::new(x, i, i.div_ceil(PAIRS), order));
        }
        Self::split(x, i)
    }

    /// Inputs for every processor.
    pub(super) fn split(x: &[f32], i: usize) -> Self {
        let order = |x: &[f32], to: &mut [[f32; LANES]]| {
            let mut rounded = vec![bf16::ZERO; x.len()];
            round(x, &mut rounded);
            split(&rounded, to);
        };
        Self::Split(InputPanels::new(x, i, i.div_ceil(PAIRS) * 2, order))
    }
}

/// The halves of pairs.
pub(super) fn bf16s(pairs: &mut [Bf16Pairs]) -> &mut [bf16] {
    cast_slice_mut::<Bf16Pairs, u16>(pairs).reinterpret_cast_mut()
}

for_processors! {
    fn round(x: &[f32], to: &mut [bf16]) {
        for (to, value) in to.iter_mut().zip(x) {
            *to = bf16::from_bits(DType::Bf16.to_bits(*value) as u16);
        }
    }
}

for_processors! {
    /// Of each 32 columns the second of each pair, then the first.
    pub(super) fn split(row: &[bf16], to: &mut [[f32; LANES]]) {
        for (to, row) in to.as_chunks_mut::<2>().0.iter_mut().zip(row.chunks(PAIRS)) {
            for (k, pair) in row.chunks(2).enumerate() {
                to[1][k] = pair[0].to_f32();
                to[0][k] = pair.get(1).map_or(0.0, |second| second.to_f32());
            }
        }
    }
}

/// AVX512-BF16, where it is.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy)]
pub(super) struct PairTiles(());

#[cfg(target_arch = "x86_64")]
impl PairTiles {
    /// Asks the processor.
    pub(super) fn new() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16");
        has.then_some(Self(()))
    }
}

#[cfg(target_arch = "x86_64")]
impl Tiles<Bf16Pairs> for PairTiles {
    const ROWS: usize = 4;

    #[inline(always)]
    fn tile<const R: usize, const M: usize>(
        self,
        w: &[[Bf16Pairs; R]],
        x: &[[Bf16Pairs; M]],
        new: bool,
        sums: &mut [[Partials; M]; R],
    ) {
        // SAFETY: there is a `PairTiles` only where the processor has the instructions.
        unsafe { tile_here(w, x, new, sums) }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
fn tile_here<const R: usize, const M: usize>(
    w: &[[Bf16Pairs; R]],
    x: &[[Bf16Pairs; M]],
    new: bool,
    sums: &mut [[Partials; M]; R],
) {
    use core::arch::x86_64::{__m512, __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_setzero_ps};
    use pulp::cast;

    let load = |pairs: &Bf16Pairs| -> __m512bh {
        let pairs: __m512i = cast(*pairs);
        // SAFETY: both are 64 bytes, and every pattern of bits is a value of either.
        unsafe { core::mem::transmute(pairs) }
    };
    let mut totals = [[_mm512_setzero_ps(); M]; R];
    if !new {
        totals = sums.map(|sums| sums.map(cast::<Partials, __m512>));
    }
    for (w, x) in w.iter().zip(x) {
        let mut rows = [load(&w[0]); R];
        for r in 0..R {
            rows[r] = load(&w[r]);
        }
        for m in 0..M {
            let x = load(&x[m]);
            for r in 0..R {
                totals[r][m] = _mm512_dpbf16_ps(totals[r][m], rows[r], x);
            }
        }
    }
    *sums = totals.map(|totals| totals.map(cast));
}
