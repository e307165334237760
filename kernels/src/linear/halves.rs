//! Products with 16-bit floats, which are widened in registers: a weight is read once, where it lies.

use crate::arith::lanes::{self, HALF_WORDS, LANES, Lanes};
use crate::format::{Format, Half};

/// Inputs of a tile.
const INPUTS: usize = 2;

/// A weight of halves whose rows are whole vectors.
#[derive(Clone, Copy)]
pub(super) struct Halves<'a> {
    half: Half,
    /// `[o, vectors]`.
    words: &'a [[u32; HALF_WORDS]],
    /// Vectors of a row.
    vectors: usize,
}

impl<'a> Halves<'a> {
    /// The weight, if it is of that kind.
    pub(super) fn new(format: Format, [_, i]: [usize; 2], words: &'a [u32]) -> Option<Self> {
        let Format::Half(half) = format else {
            return None;
        };
        (i > 0 && i.is_multiple_of(LANES)).then_some(Self {
            half,
            words: words.as_chunks().0,
            vectors: i / LANES,
        })
    }

    /// Rows from `first` on times the inputs `x`, `[m, i]`, into `[m, rows]`.
    #[inline(always)]
    pub(super) fn multiply<L: Lanes>(&self, lanes: L, first: usize, x: &[f32], y: &mut [f32]) {
        match self.half {
            Half::F16 => self.all(
                lanes,
                #[inline(always)]
                |words| lanes.widen_f16(words),
                first,
                x,
                y,
            ),
            Half::Bf16 => self.all(
                lanes,
                #[inline(always)]
                |words| lanes.widen_bf16(words),
                first,
                x,
                y,
            ),
        }
    }

    #[inline(always)]
    fn all<L: Lanes>(
        &self,
        lanes: L,
        widen: impl Fn(&[u32; HALF_WORDS]) -> L::Floats + Copy,
        first: usize,
        x: &[f32],
        y: &mut [f32],
    ) {
        let x = x.as_chunks::<LANES>().0;
        let all = y.len() * self.vectors / x.len();
        let mut done = 0;
        while done < all {
            let (first, y) = (first + done, &mut y[done..]);
            done += match all - done {
                left if left < L::ROWS => self.rows::<L, 1>(lanes, widen, first, x, y, all),
                _ if L::ROWS == 4 => self.rows::<L, 4>(lanes, widen, first, x, y, all),
                _ => self.rows::<L, 2>(lanes, widen, first, x, y, all),
            };
        }
    }

    /// `R` rows times all inputs, into the first `R` of each `all` outputs. Gives `R`.
    #[inline(always)]
    fn rows<L: Lanes, const R: usize>(
        &self,
        lanes: L,
        widen: impl Fn(&[u32; HALF_WORDS]) -> L::Floats + Copy,
        first: usize,
        x: &[[f32; LANES]],
        y: &mut [f32],
        all: usize,
    ) -> usize {
        let vectors = self.vectors;
        let m = x.len() / vectors;
        let w: [_; R] = core::array::from_fn(|r| &self.words[(first + r) * vectors..][..vectors]);
        let mut k = 0;
        while k < m {
            let x = &x[k * vectors..];
            let y = &mut y[k * all..];
            k += if m - k >= INPUTS {
                tile::<L, R, INPUTS>(lanes, widen, w, x, y, all)
            } else {
                tile::<L, R, 1>(lanes, widen, w, x, y, all)
            };
        }
        R
    }
}

/// `R` rows times the first `M` inputs of `x`, into the first `R` of each `all` outputs, adding in the order of
/// [`dot`](super::dot). Gives `M`.
#[inline(always)]
fn tile<L: Lanes, const R: usize, const M: usize>(
    lanes: L,
    widen: impl Fn(&[u32; HALF_WORDS]) -> L::Floats,
    w: [&[[u32; HALF_WORDS]]; R],
    x: &[[f32; LANES]],
    y: &mut [f32],
    all: usize,
) -> usize {
    let vectors = w[0].len();
    let w = w.map(
        #[inline(always)]
        |row| &row[..vectors],
    );
    let x: [_; M] = core::array::from_fn(
        #[inline(always)]
        |k| &x[k * vectors..][..vectors],
    );
    let mut sums = [[lanes.splat(0.0); M]; R];
    for c in 0..vectors {
        let mut inputs = [lanes.splat(0.0); M];
        for k in 0..M {
            inputs[k] = lanes.load(&x[k][c]);
        }
        for r in 0..R {
            // Rows are too short for the processor to notice in time that they are read through: the same place of the
            // rows after these.
            lanes.prefetch_far(w[r][c].as_slice(), R * vectors * HALF_WORDS);
            let weights = widen(&w[r][c]);
            for k in 0..M {
                sums[r][k] = lanes.mul_add(weights, inputs[k], sums[r][k]);
            }
        }
    }
    for r in 0..R {
        for k in 0..M {
            let mut lane = [0.0; LANES];
            lanes.store(sums[r][k], &mut lane);
            y[k * all + r] = lanes::sum(lane);
        }
    }
    M
}
