//! The numbers of a synthetic tensor.
//!
//! ```text
//! bits[i]  = 16 bits of hash(seed, name, i / 4), the lane i % 4
//! value[i] = bf16(mean + std * quantile((bits[i] + 0.5) / 65536))     times 10 to 20 in outlier columns
//! ```
//!
//! An element depends on the seed, the tensor's name and its own index alone: threads, tiles and shards
//! cannot change it. The quantiles are in a table that is made once a tensor, already scaled and rounded,
//! so that an element costs a quarter of a hash and one look-up.
//!
//! Only additions, multiplications, divisions and square roots are used, which IEEE 754 defines to the
//! last bit. The logarithm of the standard library is not among them, so there is one of our own.

use std::sync::LazyLock;

use half::bf16;

use super::like::SynthTensor;
use crate::model::Role;

/// RandomValues a table distinguishes: all that 16 bits can.
const TABLE: usize = 1 << 16;

/// Elements that share a hash.
pub(super) const LANES: u64 = 4;

/// One outlier column in this many, and at least one. Trained models have a few in a thousand.
const COLUMNS_PER_OUTLIER: u64 = 512;

/// Standard deviation of embeddings and biases: `initializer_range` of the published configurations.
const EMBEDDING_STD: f64 = 0.02;

/// Standard deviation of norm weights, around 1.
const NORM_STD: f64 = 0.05;

/// The values of one tensor.
pub(super) struct RandomValues {
    key: u64,
    /// bf16, as bits, for each 16 bits of hash.
    table: Box<[u16]>,
    columns: u64,
    /// Column and factor.
    outliers: Vec<(u64, f32)>,
}

impl RandomValues {
    pub(super) fn new(seed: u64, tensor: &SynthTensor) -> Self {
        let columns = tensor.shape.last().copied().unwrap_or(1).max(1);
        let (mean, std) = match tensor.role {
            Role::Embedding | Role::Head | Role::Bias | Role::Other => (0.0, EMBEDDING_STD),
            // Keeps the length of what goes through it: 0.016 for 4096 inputs.
            Role::Linear | Role::Expert | Role::Router => (0.0, 1.0 / (columns as f64).sqrt()),
            Role::Norm => (1.0, NORM_STD),
        };
        let table = NORMAL
            .iter()
            .map(|z| bf16::from_f64(mean + std * z).to_bits())
            .collect();
        let outliers = match tensor.role {
            Role::Linear | Role::Expert | Role::Router => outliers(seed, columns),
            Role::Embedding | Role::Head | Role::Norm | Role::Bias | Role::Other => Vec::new(),
        };
        Self {
            key: key(seed, &tensor.name),
            table,
            columns,
            outliers,
        }
    }

    /// Writes the elements from `first`, a multiple of [`LANES`], as little-endian bf16.
    pub(super) fn fill(&self, first: u64, out: &mut [u8]) {
        debug_assert!(first.is_multiple_of(LANES) && out.len().is_multiple_of(2));
        for (group, lanes) in (first / LANES..).zip(out.chunks_mut(2 * LANES as usize)) {
            let mut bits = nth(self.key, group);
            for element in lanes.chunks_exact_mut(2) {
                let value = self.table[usize::from(bits as u16)];
                element.copy_from_slice(&value.to_le_bytes());
                bits >>= 16;
            }
        }

        let end = first + out.len() as u64 / 2;
        for &(column, factor) in &self.outliers {
            let mut index = first / self.columns * self.columns + column;
            if index < first {
                index += self.columns;
            }
            while index < end {
                let at = 2 * (index - first) as usize;
                let value = bf16::from_le_bytes([out[at], out[at + 1]]).to_f32();
                let scaled = bf16::from_f32(value * factor);
                out[at..at + 2].copy_from_slice(&scaled.to_le_bytes());
                index += self.columns;
            }
        }
    }
}

/// The outlier columns of every matrix with this many inputs: the same in each layer, as the outlier
/// channels of the residual stream are.
fn outliers(seed: u64, columns: u64) -> Vec<(u64, f32)> {
    let key = key(seed, "outlier columns");
    let mut found: Vec<(u64, f32)> = Vec::new();
    for nth_outlier in 0..columns.div_ceil(COLUMNS_PER_OUTLIER) {
        let hash = nth(key, nth_outlier);
        let column = (hash >> 32) % columns;
        let factor = (10 + hash % 11) as f32;
        // Twice the same column would be scaled twice.
        if found.iter().all(|(other, _)| *other != column) {
            found.push((column, factor));
        }
    }
    found
}

/// What the hashes of one tensor begin with.
fn key(seed: u64, name: &str) -> u64 {
    // FNV-1a.
    let name = name.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    });
    mix(mix(seed) ^ name)
}

/// The n-th number of SplitMix64 from `key`, without the ones before it (Steele, Lea, Flood, "Fast
/// splittable pseudorandom number generators", OOPSLA 2014).
fn nth(key: u64, n: u64) -> u64 {
    mix(key.wrapping_add((n + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)))
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Quantiles of the standard normal distribution at the middles of 65536 equal parts.
static NORMAL: LazyLock<Vec<f64>> = LazyLock::new(|| {
    (0..TABLE)
        .map(|k| quantile((k as f64 + 0.5) / TABLE as f64))
        .collect()
});

/// The normal quantile, to seven digits (Wichura, "Algorithm AS 241", Applied Statistics 37, 1988,
/// PPND7). The branch for `p` below `exp(-25)` is left out: the table ends at 2^-17.
fn quantile(p: f64) -> f64 {
    let q = p - 0.5;
    if q.abs() <= 0.425 {
        let r = 0.180_625 - q * q;
        return q
            * (((59.109_374_720 * r + 159.291_132_02) * r + 50.434_271_938) * r + 3.387_132_717_9)
            / (((67.187_563_600 * r + 78.757_757_664) * r + 17.895_169_469) * r + 1.0);
    }
    let r = (-ln(p.min(1.0 - p))).sqrt() - 1.6;
    let z = (((0.170_238_211_03 * r + 1.306_728_481_6) * r + 2.756_815_390_0) * r
        + 1.423_437_277_7)
        / ((0.120_211_329_75 * r + 0.737_001_642_50) * r + 1.0);
    if q < 0.0 { -z } else { z }
}

/// The natural logarithm, for `0 < x <= 1`: `x = m * 2^-e` with `0.5 < m <= 1`, and
/// `ln m = 2 artanh((m - 1) / (m + 1))` by its series, whose 20th term is below 2^-60.
fn ln(x: f64) -> f64 {
    let (mut m, mut halvings) = (x, 0.0);
    while m <= 0.5 {
        m *= 2.0;
        halvings += 1.0;
    }
    let t = (m - 1.0) / (m + 1.0);
    let square = t * t;
    let mut series = 0.0;
    for n in (0..20).rev() {
        series = series * square + 1.0 / f64::from(2 * n + 1);
    }
    2.0 * t * series - halvings * std::f64::consts::LN_2
}

#[cfg(test)]
mod tests {
    use super::quantile;

    /// From Python's `statistics.NormalDist().inv_cdf`. A wrong coefficient or branch fails here.
    #[test]
    fn quantiles_are_those_of_the_normal_distribution() {
        let cases = [
            (0.5 / 65536.0, -4.324_919_0),
            (0.001, -3.090_232_3),
            (0.05, -1.644_853_6),
            (0.075, -1.439_531_5),
            (0.25, -0.674_489_75),
            (0.5, 0.0),
            (0.9, 1.281_551_6),
            (0.99, 2.326_347_9),
        ];
        for (p, expected) in cases {
            let found = quantile(p);
            assert!(
                (found - expected).abs() < 2e-6,
                "{p}: {found} for {expected}"
            );
            assert!((found + quantile(1.0 - p)).abs() < 2e-6, "{p}");
        }
    }
}
