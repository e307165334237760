//! Facts of a weight that are known before it is read.

use crate::arith::float::DType;
use crate::format::{Affine, Format};
use crate::packer::FeedOrder;

/// Facts of a weight that are known before it is read.
#[derive(Debug, Clone, Copy)]
pub(super) struct HqqPlan {
    pub(super) shape: [usize; 2],
    pub(super) source: DType,
    pub(super) affine: Affine,
    pub(super) tile_rows: usize,
    pub(super) passes: usize,
    pub(super) largest: f32,
    pub(super) solve: bool,
    pub(super) round_zero: bool,
}

/// Ranges smaller than this are not scaled.
const SMALLEST_RANGE: f32 = 1e-4;

/// The most that weights are multiplied by.
const LARGEST_SCALE: f32 = 2e4;

impl HqqPlan {
    /// The order in which tiles have to come.
    pub(super) const fn order(&self) -> FeedOrder {
        let format = Format::Affine(self.affine);
        FeedOrder::new(format, self.shape, self.source, self.tile_rows, self.passes)
    }

    /// Weights.
    pub(super) const fn n(&self) -> usize {
        self.shape[0] * self.shape[1]
    }

    /// The factor of the weights of a group between `min` and `max`, and its first zero.
    #[inline(always)]
    pub(super) fn scaling(&self, min: f32, max: f32) -> (f32, f32) {
        let range = max - min;
        let scale = if range.abs() <= SMALLEST_RANGE {
            1.0
        } else {
            // PyTorch computes `largest / range` like this.
            1.0 / range * self.largest
        };
        // NaN stays.
        let scale = if scale > LARGEST_SCALE {
            LARGEST_SCALE
        } else {
            scale
        };
        let zero = -min * scale;
        let zero = if self.round_zero {
            zero.round_ties_even()
        } else {
            zero
        };
        (scale, zero)
    }

    /// The words of every group's scale and zero.
    pub(super) fn pairs(&self, scales: &[f32], zeros: &[f32]) -> Vec<u32> {
        let size = self.affine.param_words();
        let mut words = vec![0; scales.len() * size];
        let pairs = scales.iter().zip(zeros);
        for (words, (scale, zero)) in words.chunks_exact_mut(size).zip(pairs) {
            // Which NaN a processor makes differs.
            let plain = |value: f32| if value.is_nan() { f32::NAN } else { value };
            self.affine.store(plain(1.0 / scale), plain(*zero), words);
        }
        words
    }
}
