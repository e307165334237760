//! Which unit goes to which device, as numbers alone.
//!
//! Units are taken in the order in which a token meets them, and devices in the order of their list: a device that is full is not
//! looked at again. So activations move once from each device to the next.

/// The bytes of one unit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct UnitBytes {
    /// Of matrices, which can be streamed.
    pub(super) matrices: u64,
    /// Of everything else, which is always on a device.
    pub(super) others: u64,
    /// Of the largest matrix that is no expert.
    pub(super) largest: u64,
    /// Of the largest matrix of an expert.
    pub(super) expert: u64,
    /// Of its cache.
    pub(super) cache: u64,
    /// Of activations while it runs.
    pub(super) activations: u64,
}

/// What one device has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct DeviceLoad {
    /// Bytes that stay.
    pub(super) kept: u64,
    /// Bytes of activations, which units share.
    pub(super) activations: u64,
}

impl UnitBytes {
    /// Bytes that stay on its device.
    pub(super) fn kept(&self) -> u64 {
        self.matrices + self.others + self.cache
    }

    /// All that it takes of a device of its own.
    pub(super) fn alone(&self) -> u64 {
        self.kept() + self.activations
    }
}

impl DeviceLoad {
    pub(super) fn bytes(self) -> u64 {
        self.kept + self.activations
    }

    fn with(self, unit: &UnitBytes) -> Self {
        Self {
            kept: self.kept + unit.kept(),
            activations: self.activations.max(unit.activations),
        }
    }

    fn fits(self, limit: Option<u64>) -> bool {
        limit.is_none_or(|limit| self.bytes() <= limit)
    }
}

/// Fills one device after another up to its limit; `first` is on the first device already. `None` for a unit that fits
/// nowhere.
pub(super) fn fill(
    units: &[UnitBytes],
    limits: &[Option<u64>],
    first: DeviceLoad,
) -> Vec<Option<usize>> {
    let (mut device, mut load) = (0, first);
    let place = |unit: &UnitBytes| {
        let fits = |load: DeviceLoad, device: usize| load.with(unit).fits(limits[device]);
        if !fits(load, device) {
            let mut later = device + 1..limits.len();
            // A unit that no later device takes either leaves this one to those after it.
            device = later.find(|later| fits(DeviceLoad::default(), *later))?;
            load = DeviceLoad::default();
        }
        load = load.with(unit);
        Some(device)
    };
    units.iter().map(place).collect()
}

/// All units on devices, so that the fullest of the devices from `from` on has as little as possible, and those before have what
/// is left over; `None` where they do not fit.
pub(super) fn balance(
    units: &[UnitBytes],
    limits: &[Option<u64>],
    from: usize,
) -> Option<Vec<Option<usize>>> {
    let all: u64 = units.iter().map(UnitBytes::kept).sum();
    let most = units.iter().map(|unit| unit.activations).max().unwrap_or(0);
    let whole = |found: &Vec<Option<usize>>| found.iter().all(Option::is_some);
    // The devices that are balanced, and those that get the rest: with the least cap by which everything has a place.
    let with = |cap: u64, is_capped: &dyn Fn(usize) -> bool| {
        let capped = limits
            .iter()
            .enumerate()
            .map(|(nth, limit)| match is_capped(nth) {
                true => Some(limit.map_or(cap, |limit| limit.min(cap))),
                false => *limit,
            });
        let capped: Vec<Option<u64>> = capped.collect();
        Some(fill(units, &capped, DeviceLoad::default())).filter(whole)
    };
    let least = |is_capped: &dyn Fn(usize) -> bool| {
        let (mut low, mut high) = (0, all + most);
        with(high, is_capped)?;
        while low < high {
            let cap = low + (high - low) / 2;
            match with(cap, is_capped) {
                Some(_) => high = cap,
                None => low = cap + 1,
            }
        }
        with(high, is_capped)
    };
    if from == 0 || from >= limits.len() {
        return least(&|_| true);
    }
    // Without the first devices, if the others hold it all.
    let others = &limits[from..];
    let found = balance(units, others, 0);
    let shifted = |found: Vec<Option<usize>>| {
        let found = found.into_iter();
        found.map(|device| device.map(|nth| nth + from)).collect()
    };
    found.map(shifted).or_else(|| least(&|nth| nth < from))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn units(bytes: &[u64]) -> Vec<UnitBytes> {
        let unit = |matrices: &u64| UnitBytes {
            matrices: *matrices,
            ..UnitBytes::default()
        };
        bytes.iter().map(unit).collect()
    }

    fn filled(bytes: &[u64], limits: &[u64]) -> Vec<Option<usize>> {
        let limits: Vec<_> = limits.iter().copied().map(Some).collect();
        fill(&units(bytes), &limits, DeviceLoad::default())
    }

    /// By hand. Would catch a device that is looked at again, a limit that is passed by one byte, and a large unit that keeps small
    /// ones from their place.
    #[test]
    fn devices_are_filled_in_order() {
        assert_eq!(filled(&[4, 4, 4], &[8, 8]), [Some(0), Some(0), Some(1)]);
        assert_eq!(filled(&[4, 4, 4], &[7, 8]), [Some(0), Some(1), Some(1)]);
        assert_eq!(filled(&[4, 5, 1], &[8, 8]), [Some(0), Some(1), Some(1)]);
        assert_eq!(
            filled(&[4, 9, 4, 4], &[8, 8]),
            [Some(0), None, Some(0), Some(1)]
        );
        assert_eq!(filled(&[4, 4, 4], &[4, 4]), [Some(0), Some(1), None]);
        assert_eq!(filled(&[9], &[4, 16]), [Some(1)]);
    }

    /// Units share the room of activations, and not that of caches.
    #[test]
    fn activations_count_once_a_device() {
        let unit = UnitBytes {
            matrices: 2,
            others: 1,
            cache: 1,
            activations: 4,
            largest: 2,
            expert: 0,
        };
        let two = [unit; 2];
        let fits = |limit| fill(&two, &[Some(limit)], DeviceLoad::default());
        assert_eq!(fits(12), [Some(0), Some(0)]);
        assert_eq!(fits(11), [Some(0), None]);
    }

    /// Against the best of all ways to cut 12 units into 3 runs, tried one by one.
    #[test]
    fn balanced_devices_have_as_little_as_possible() {
        let bytes = [9, 1, 7, 3, 3, 8, 2, 2, 6, 5, 4, 10];
        let all = units(&bytes);
        let sum = |range: core::ops::Range<usize>| bytes[range].iter().sum::<u64>();
        let cuts = (0..=12).flat_map(|a| (a..=12).map(move |b| (a, b)));
        let fullest = cuts.map(|(a, b)| sum(0..a).max(sum(a..b)).max(sum(b..12)));
        let best = fullest.min().expect("there are ways");
        let found = balance(&all, &[None; 3], 0).expect("no limits");
        let on = |device| {
            let placed = found
                .iter()
                .zip(bytes)
                .filter(|(at, _)| **at == Some(device));
            placed.map(|(_, bytes)| bytes).sum::<u64>()
        };
        assert_eq!((0..3).map(on).max(), Some(best));
        assert!(found.is_sorted());
    }

    #[test]
    fn limits_bound_what_is_balanced() {
        let limits = |all: [u64; 3]| all.map(Some);
        let all = units(&[4; 6]);
        let found = |limits: [Option<u64>; 3], from| {
            let found = balance(&all, &limits, from)?;
            Some([0, 1, 2].map(|device| found.iter().filter(|at| **at == Some(device)).count()))
        };
        assert_eq!(found(limits([24; 3]), 0), Some([2, 2, 2]));
        assert_eq!(found(limits([4, 24, 24]), 0), Some([1, 3, 2]));
        assert_eq!(found(limits([4, 4, 12]), 0), None);
        // The first gets nothing, or what the others have no room for.
        assert_eq!(found(limits([24; 3]), 1), Some([0, 3, 3]));
        assert_eq!(found(limits([24, 8, 8]), 1), Some([2, 2, 2]));
        assert_eq!(found(limits([24, 8, 4]), 1), Some([3, 2, 1]));
    }
}
