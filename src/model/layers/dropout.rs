//! Dropout whose masks can be drawn again.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use burn::tensor::{DType, Tensor, TensorData};
use rayon::prelude::*;

/// Drops values at random while adapters are trained.
///
/// The mask of a call is a function of the seed, the place and the number of the call, and of nothing else: a run that
/// resumes with the same [`calls`](Self::calls) draws the masks that the uninterrupted run draws, on every device. Burn's own
/// generator is one for the whole process, and its state cannot be read.
#[derive(Debug, Clone)]
pub struct Dropout {
    rate: f64,
    seed: u64,
    calls: Arc<AtomicU64>,
    /// Which part of a larger batch the values are.
    part: Arc<AtomicU64>,
    again: Option<Arc<Mutex<Drawn>>>,
}

/// The numbers of masks that a part of a model drew in its first run, and how many of them the present run has drawn.
#[derive(Debug, Default)]
struct Drawn {
    calls: Vec<u64>,
    next: usize,
}

impl Dropout {
    /// Drops each value with probability `rate` (0 ≤ `rate` < 1). Each layer needs a seed of its own.
    pub fn new(rate: f64, seed: u64) -> Self {
        Self {
            rate,
            seed,
            calls: Arc::default(),
            part: Arc::default(),
            again: None,
        }
    }

    /// How many masks were drawn.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Continues as if `calls` masks were drawn already.
    pub fn set_calls(&self, calls: u64) {
        self.calls.store(calls, Ordering::Relaxed);
    }

    /// Draws the masks of the `part`th of several equal parts of a batch, from 0, as a call with the whole batch would.
    pub fn set_part(&self, part: u64) {
        self.part.store(part, Ordering::Relaxed);
    }

    /// The same, for a part of a model that runs more than once: after each [`rewind`](Self::rewind) the masks of its first run are drawn
    /// again. Its masks are drawn outside of a graph too.
    pub(crate) fn again(&self) -> Self {
        Self {
            again: Some(Arc::default()),
            ..self.clone()
        }
    }

    /// Begins the next run.
    pub(crate) fn rewind(&self) {
        if let Some(drawn) = &self.again {
            drawn.lock().unwrap_or_else(PoisonError::into_inner).next = 0;
        }
    }

    /// Whether masks are drawn for factors that are trained, or not.
    pub(super) const fn draws(&self, trained: bool) -> bool {
        trained || self.again.is_some()
    }

    /// The number of the next mask.
    fn next(&self) -> u64 {
        let draw = || self.calls.fetch_add(1, Ordering::Relaxed);
        let Some(drawn) = &self.again else {
            return draw();
        };
        let mut drawn = drawn.lock().unwrap_or_else(PoisonError::into_inner);
        if drawn.next == drawn.calls.len() {
            drawn.calls.push(draw());
        }
        drawn.next += 1;
        drawn.calls[drawn.next - 1]
    }

    /// Sets the dropped values of `x` to 0, and divides the others by `1 - rate`.
    pub(super) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let key = split_mix(self.seed ^ split_mix(self.next()));
        let limit = (self.rate * f64::from(u32::MAX)) as u32;
        let stays = (1.0 / (1.0 - self.rate)) as f32;
        let factor = |nth: u64| match (split_mix(key ^ nth) >> 32) as u32 {
            drawn if drawn < limit => 0.0,
            _ => stays,
        };
        let shape = x.dims();
        // As many at once as make a thread worth its while.
        let mut factors = vec![0.0; shape.iter().product()];
        let before = self.part.load(Ordering::Relaxed) * factors.len() as u64;
        let pieces = factors.par_chunks_mut(1 << 16).enumerate();
        pieces.for_each(|(piece, factors)| {
            let first = before + (piece << 16) as u64;
            let numbered = factors.iter_mut().zip(first..);
            numbered.for_each(|(value, nth)| *value = factor(nth));
        });
        let device = x.device().without_autodiff();
        let factors: Tensor<2> =
            Tensor::from_data(TensorData::new(factors, shape), (&device, DType::F32));
        let dtype = x.dtype();
        x * factors.cast(dtype)
    }
}

/// How far the state of SplitMix64 moves with each value.
pub(crate) const SPLIT_MIX_STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The value that SplitMix64 (Steele, Lea and Flood, 2014) draws in the state `x`: each of its bits depends on all of `x`.
pub(crate) fn split_mix(x: u64) -> u64 {
    let x = x.wrapping_add(SPLIT_MIX_STEP);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
