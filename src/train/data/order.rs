//! The order of an epoch, as a function.

use super::config::DataOrder;
use crate::model::layers::split_mix;

/// Rounds of the network. Four are enough for a random function of 64 bits (Luby and Rackoff, 1988); small networks mix less
/// in each.
const ROUNDS: usize = 8;

/// A permutation of `0..len`, one index at a time: nothing is stored but its keys.
///
/// A Feistel network permutes the numbers of an even count of bits; an index that comes out too large is sent through again
/// until it is below `len` ("cycle walking", Black and Rogaway, 2002). The numbers are less than `4 len`, so that four passes
/// are expected at most.
#[derive(Debug, Clone)]
pub(super) struct Permutation {
    len: u64,
    /// Bits of a half, and the keys of the rounds; `None`: every index stays where it is.
    network: Option<(u32, [u64; ROUNDS])>,
}

impl Permutation {
    /// The order of `len` things at some place of the data, of which no two have one order.
    pub(super) fn new(order: DataOrder, place: [u64; 2], len: u64) -> Self {
        let network = match order {
            DataOrder::AsWritten => None,
            DataOrder::Shuffled { seed } => {
                let bits = 64 - len.saturating_sub(1).leading_zeros();
                let key = place
                    .iter()
                    .fold(split_mix(seed), |key, part| split_mix(key ^ part));
                let keys = std::array::from_fn(|round| split_mix(key ^ round as u64));
                Some((bits.div_ceil(2).max(1), keys))
            }
        };
        Self { len, network }
    }

    /// The thing at an index, which is less than the length.
    pub(super) fn at(&self, index: u64) -> u64 {
        let Some((half, keys)) = &self.network else {
            return index;
        };
        let mask = (1 << half) - 1;
        let mut number = index;
        loop {
            let (mut left, mut right) = (number >> half, number & mask);
            for key in keys {
                (left, right) = (right, left ^ (split_mix(key ^ right) & mask));
            }
            number = left << half | right;
            if number < self.len {
                return number;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(seed: u64, epoch: u64, len: u64) -> Vec<u64> {
        let permutation = Permutation::new(DataOrder::Shuffled { seed }, [epoch, 0], len);
        (0..len).map(|index| permutation.at(index)).collect()
    }

    #[test]
    fn every_index_comes_once() {
        for len in [1, 2, 3, 4, 5, 16, 17, 100, 1000, 4097] {
            let mut all = order(7, 3, len);
            all.sort_unstable();
            assert_eq!(all, (0..len).collect::<Vec<_>>());
        }
    }

    #[test]
    fn seeds_and_epochs_have_orders_of_their_own() {
        let written: Vec<u64> = (0..100).collect();
        let orders = [
            order(1, 0, 100),
            order(1, 1, 100),
            order(2, 0, 100),
            written,
        ];
        for (nth, one) in orders.iter().enumerate() {
            for other in &orders[nth + 1..] {
                let same = one.iter().zip(other).filter(|(a, b)| a == b).count();
                // One is expected.
                assert!(same < 8, "{same} of 100 at the same place");
            }
        }
    }

    /// Chi-square of the place of each thing over many seeds: 16 degrees of freedom for 5 things, of which 40 is exceeded once
    /// in a thousand times.
    #[test]
    fn all_places_are_as_likely() {
        let (len, seeds) = (5, 4000);
        let mut counts = vec![0_u32; (len * len) as usize];
        for seed in 0..seeds {
            for (place, thing) in order(seed, 0, len).into_iter().enumerate() {
                counts[place * len as usize + thing as usize] += 1;
            }
        }
        let expected = seeds as f64 / len as f64;
        let square = |count: &u32| (f64::from(*count) - expected).powi(2) / expected;
        let chi: f64 = counts.iter().map(square).sum();
        assert!(chi < 40.0, "{chi}");
    }
}
