//! Random values that are the same on every device and in every version.

use crate::model::layers::{SPLIT_MIX_STEP, split_mix};

/// A stream of values, a function of a seed and a number. The generator is SplitMix64 (Steele, Lea and Flood, 2014).
#[derive(Debug)]
pub(super) struct Uniform(u64);

impl Uniform {
    /// The stream of the `nth` module.
    pub(super) fn new(seed: u64, nth: u64) -> Self {
        let mut stream = Self(seed);
        let first = stream.next();
        let mut stream = Self(first ^ nth.wrapping_mul(SPLIT_MIX_STEP));
        stream.next();
        stream
    }

    fn next(&mut self) -> u64 {
        let drawn = split_mix(self.0);
        self.0 = self.0.wrapping_add(SPLIT_MIX_STEP);
        drawn
    }

    /// A value of `-bound..bound`.
    pub(super) fn within(&mut self, bound: f64) -> f32 {
        let unit = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        (bound * (2.0 * unit - 1.0)) as f32
    }
}
