//! Random values that are the same on every device and in every version.

/// A stream of values, a function of a seed and a number. The generator is SplitMix64 (Steele, Lea and Flood, 2014).
#[derive(Debug)]
pub(super) struct Uniform(u64);

impl Uniform {
    /// The stream of the `nth` module.
    pub(super) fn new(seed: u64, nth: u64) -> Self {
        let mut stream = Self(seed);
        let first = stream.next();
        let mut stream = Self(first ^ nth.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        stream.next();
        stream
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = self.0;
        let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// A value of `-bound..bound`.
    pub(super) fn within(&mut self, bound: f64) -> f32 {
        let unit = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        (bound * (2.0 * unit - 1.0)) as f32
    }
}
