//! The 8-bit codes of moments.
//!
//! The values of the 256 codes are those of `create_dynamic_map` of bitsandbytes (Dettmers et al., "8-bit Optimizers via
//! Block-wise Quantization", arXiv:2110.02861, section 1.3): seven runs, of which run `r` spreads its values evenly over
//! `[0.1, 1] * 10^(r - 6)`, with 0 and 1. Run `r` has `2^r` values of each sign in the signed map, and `2^(r + 1)` in the
//! other.
//!
//! A value gets the nearest code, of two equally near the lower one, as the CUDA code and the portable code of bitsandbytes
//! choose it. Its library for the CPU looks codes up in 65536 bins since release 0.50, which misses the nearest one by up to
//! seven codes near 0.

use std::sync::LazyLock;

use crate::{arith::float::absmax_of, formats::nested};

/// Values that share an absolute maximum.
pub const BLOCK: usize = 256;

/// MomentCodes of a map.
const CODES: usize = 256;

/// No absolute maximum of a block is divided by less, as in bitsandbytes.
pub const LEAST_ABSMAX: f32 = 1e-38;

/// The values of 256 codes, and how a code is found for a value.
#[derive(Debug)]
pub struct MomentCodes {
    /// The value of each code, ascending.
    pub values: [f32; CODES],
    /// A value above `bounds[k]` has a code above `k`. Nothing is above the last one.
    pub bounds: [f32; CODES],
    /// How many bounds are below all values of a bin. No bin has more than one bound inside.
    start: Vec<u8>,
}

/// MomentCodes of first moments, which have a sign.
pub static SIGNED: LazyLock<MomentCodes> = LazyLock::new(|| MomentCodes::new(nested::MAP));

/// MomentCodes of second moments.
pub static UNSIGNED: LazyLock<MomentCodes> = LazyLock::new(|| MomentCodes::new(unsigned()));

/// The unsigned map, to the bit of the one that PyTorch computes with `linspace`.
fn unsigned() -> [f32; CODES] {
    let mut map = [0.0; CODES];
    map[CODES - 1] = 1.0;
    let mut k = 1;
    for (run, power) in [1e-6_f32, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0]
        .into_iter()
        .enumerate()
    {
        let n = 1 << (run + 1);
        let step = f64::from((1.0 - 0.1_f32) / n as f32);
        // The first half is counted from the lower end, and the second from the upper one.
        let end = |i: usize| match 2 * i < n {
            true => (f64::from(0.1_f32) + step * i as f64) as f32,
            false => (1.0 - step * (n - i) as f64) as f32,
        };
        for i in 0..n {
            map[k] = power * ((end(i) + end(i + 1)) / 2.0);
            k += 1;
        }
    }
    map
}

/// Bits of a float that choose its bin: sign, exponent and seven bits of the fraction.
const BIN_SHIFT: u32 = 16;

/// The exponent and fraction of the smallest bin, 2^-27: all values nearer to 0 are in it too.
const SMALLEST: u32 = (127 - 27) << 7;

/// The bin of 1, and of everything above.
const LARGEST: u32 = 127 << 7;

/// Bins of one sign.
const BINS: u32 = LARGEST - SMALLEST + 1;

/// The bin of a value.
#[inline(always)]
fn bin(value: f32) -> usize {
    let bits = value.to_bits() >> BIN_SHIFT;
    let size = (bits & 0x7fff).clamp(SMALLEST, LARGEST) - SMALLEST;
    (size + (bits >> 15) * BINS) as usize
}

impl MomentCodes {
    fn new(values: [f32; CODES]) -> Self {
        let mut bounds = [f32::INFINITY; CODES];
        for (bound, pair) in bounds.iter_mut().zip(values.windows(2)) {
            *bound = (pair[0] + pair[1]) / 2.0;
        }
        let size = |bin: u32| f32::from_bits((bin + SMALLEST) << BIN_SHIFT);
        // The smallest value of a positive bin belongs to it; that of a negative one is the end of the next.
        let positive = (0..BINS).map(|bin| {
            let lowest = if bin == 0 { 0.0 } else { size(bin) };
            bounds.partition_point(|bound| *bound < lowest) as u8
        });
        let negative = (1..=BINS).map(|next| match next {
            BINS => 0,
            next => bounds.partition_point(|bound| *bound <= -size(next)) as u8,
        });
        let start = positive.chain(negative).collect();
        Self {
            values,
            bounds,
            start,
        }
    }

    /// The code that is nearest to a value of at most 1; of two equally near, the lower.
    #[inline(always)]
    pub fn nearest(&self, value: f32) -> u8 {
        let start = self.start[bin(value)];
        start + u8::from(self.bounds[usize::from(start)] < value)
    }

    /// The values of the codes of a block.
    #[inline(always)]
    pub fn decode(&self, codes: &[u8], absmax: f32, out: &mut [f32]) {
        for (value, code) in out.iter_mut().zip(codes) {
            *value = self.values[usize::from(*code)] * absmax;
        }
    }

    /// The codes of a block, and its absolute maximum. A block that is not full divides by it, as bitsandbytes does.
    #[inline(always)]
    pub fn encode(&self, values: &mut [f32], codes: &mut [u8]) -> f32 {
        let absmax = absmax_of(values.iter().copied());
        let divisor = match absmax < LEAST_ABSMAX {
            true => LEAST_ABSMAX,
            false => absmax,
        };
        let full = values.len() == BLOCK;
        if full {
            let factor = 1.0 / divisor;
            values.iter_mut().for_each(|value| *value *= factor);
        } else {
            values.iter_mut().for_each(|value| *value /= divisor);
        }
        for (code, value) in codes.iter_mut().zip(values) {
            *code = self.nearest(*value);
        }
        if full { absmax } else { divisor }
    }
}
