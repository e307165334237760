//! Which strategy a load gets where the caller asks for none: a table.

use crate::{
    config::{Bytes, Strategy},
    quant::scratch::UNPACKED_BYTES,
    target::MemoryKind,
};

/// The facts that a strategy depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MemoryFacts {
    /// Bytes of the finished weights.
    pub(super) weights: u64,
    /// Bytes of host memory that may be used, `None` where the system does not tell.
    pub(super) host: Option<u64>,
    /// Bytes of the device's memory that may be used, `None` where the driver does not tell. Ignored for a host target.
    pub(super) device: Option<u64>,
    /// Where the target's tensors are.
    pub(super) memory: MemoryKind,
    /// Whether host and device share one memory.
    pub(super) unified: Option<bool>,
    /// Whether the caller named a folder to stream from.
    pub(super) disk: bool,
}

/// Room beside the weights of a device: rows that are unpacked at a time while they are multiplied.
const SCRATCH: u64 = UNPACKED_BYTES as u64;

/// One row: the strategy is chosen where the condition holds and those above do not.
struct StrategyRow {
    strategy: Strategy,
    when: fn(&MemoryFacts) -> bool,
    why: fn(&MemoryFacts) -> String,
}

const HOST: [StrategyRow; 3] = [
    StrategyRow {
        strategy: Strategy::Full,
        when: |facts| facts.fit_host_beside(Strategy::Full),
        why: |facts| {
            let ahead = Bytes(Strategy::Full.in_flight_bytes_max());
            format!(
                "{} of weights and {ahead} in flight fit in memory",
                facts.shown()
            )
        },
    },
    StrategyRow {
        strategy: Strategy::LowMemory,
        when: |facts| facts.fit_host_beside(Strategy::LowMemory),
        why: |facts| {
            let (kept, host) = (facts.shown(), shown(facts.host));
            format!("{kept} of weights leave little of {host} to read ahead")
        },
    },
    StrategyRow {
        strategy: Strategy::Streaming,
        when: |facts| facts.disk,
        why: |facts| {
            let (kept, host) = (facts.shown(), shown(facts.host));
            format!("{kept} of weights do not fit in {host}, and a disk is named")
        },
    },
];

/// A model that fits nowhere: nothing is written to a disk that the caller has not named. Its plan is refused.
const HOST_LACKS_MEMORY: StrategyRow = StrategyRow {
    strategy: Strategy::LowMemory,
    when: |_| true,
    why: |facts| {
        let (kept, host) = (facts.shown(), shown(facts.host));
        format!("{kept} of weights do not fit in {host}, and no disk is named to stream from")
    },
};

const DEVICE: [StrategyRow; 5] = [
    StrategyRow {
        strategy: Strategy::UnifiedMemory,
        when: |facts| facts.fit_device() && facts.shares_memory(),
        why: |_| "host and device share one memory".to_owned(),
    },
    StrategyRow {
        strategy: Strategy::Full,
        when: |facts| facts.fit_device() && fits(Strategy::Full.in_flight_bytes_max(), facts.host),
        why: |facts| {
            let (kept, ahead) = (facts.shown(), Bytes(Strategy::Full.in_flight_bytes_max()));
            format!("{kept} of weights fit on the device, and {ahead} in flight on the host")
        },
    },
    StrategyRow {
        strategy: Strategy::LowMemory,
        when: MemoryFacts::fit_device,
        why: |facts| {
            format!(
                "{} of host memory leave little to read ahead",
                shown(facts.host)
            )
        },
    },
    StrategyRow {
        strategy: Strategy::Streaming,
        when: |facts| facts.disk,
        why: |facts| facts.not_on_device("and a disk is named"),
    },
    StrategyRow {
        strategy: Strategy::Streaming,
        when: |facts| !facts.shares_memory() && facts.fit_host_beside(Strategy::Streaming),
        why: |facts| facts.not_on_device("and do on the host"),
    },
];

/// As [`HOST_LACKS_MEMORY`].
const DEVICE_LACKS_MEMORY: StrategyRow = StrategyRow {
    strategy: Strategy::LowMemory,
    when: |_| true,
    why: |facts| {
        let (kept, device) = (facts.shown(), shown(facts.usable_device()));
        format!(
            "{kept} of weights do not fit in the device's {device} nor on the host, and no disk is named to stream from"
        )
    },
};

/// The strategy for these facts, and why. An unknown memory is taken to be large enough.
pub(super) fn choose(facts: &MemoryFacts) -> (Strategy, String) {
    let (rows, last) = match facts.memory {
        MemoryKind::Host => (&HOST[..], &HOST_LACKS_MEMORY),
        MemoryKind::Device => (&DEVICE[..], &DEVICE_LACKS_MEMORY),
    };
    let row = rows.iter().find(|row| (row.when)(facts)).unwrap_or(last);
    (row.strategy, (row.why)(facts))
}

impl MemoryFacts {
    /// Whether the weights and the bytes that `strategy` has in flight fit in host memory.
    fn fit_host_beside(&self, strategy: Strategy) -> bool {
        let beside = strategy.in_flight_bytes_max();
        fits(self.weights.saturating_add(beside), self.host)
    }

    /// Whether the weights, and the rows that a product unpacks, fit on the device.
    fn fit_device(&self) -> bool {
        fits(self.weights.saturating_add(SCRATCH), self.usable_device())
    }

    /// Bytes of the device: where it shares its memory with the host, the smaller of the two, since one memory has to
    /// hold the bytes of both.
    fn usable_device(&self) -> Option<u64> {
        match self.shares_memory() {
            true => [self.device, self.host].into_iter().flatten().min(),
            false => self.device,
        }
    }

    fn shares_memory(&self) -> bool {
        self.unified == Some(true)
    }

    fn shown(&self) -> Bytes {
        Bytes(self.weights)
    }

    fn not_on_device(&self, but: &str) -> String {
        let (kept, device) = (self.shown(), shown(self.usable_device()));
        format!("{kept} of weights do not fit in the device's {device}, {but}")
    }
}

/// Bytes fit where they take nine tenths of a memory at most.
fn fits(bytes: u64, memory: Option<u64>) -> bool {
    memory.is_none_or(|all| bytes <= all / 10 * 9)
}

fn shown(memory: Option<u64>) -> Bytes {
    Bytes(memory.unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would catch a limit taken of the wrong memory, a device that is taken to share memory although
    /// its driver does not say so, and a file written without being asked for.
    #[test]
    fn the_choice_follows_the_table() {
        use MemoryKind::{Device, Host};
        use Strategy::{Full, LowMemory, Streaming, UnifiedMemory};
        let (yes, no) = (Some(true), Some(false));
        // Weights, host and device in MiB; where tensors are; whether they share; whether a disk is named.
        #[rustfmt::skip]
        let table = [
            (  4000, Some(16_000), None,         Host,   yes,  false, Full,          "fit in memory"),
            (  4000, None,         None,         Host,   yes,  false, Full,          "fit in memory"),
            (14_144, Some(16_000), None,         Host,   yes,  false, Full,          "fit in memory"),
            (14_145, Some(16_000), None,         Host,   yes,  true,  LowMemory,     "leave little of 15.62 GiB"),
            (14_368, Some(16_000), None,         Host,   yes,  false, LowMemory,     "leave little of 15.62 GiB"),
            (14_369, Some(16_000), None,         Host,   yes,  false, LowMemory,     "no disk is named"),
            (14_369, Some(16_000), None,         Host,   yes,  true,  Streaming,     "a disk is named"),
            // A device's memory is not a host target's.
            (  4000, Some(16_000), Some(1000),   Host,   yes,  false, Full,          "fit in memory"),
            (16_000, Some(8000),   Some(24_000), Device, no,   false, Full,          "fit on the device"),
            (16_000, Some(8000),   None,         Device, None, false, Full,          "fit on the device"),
            (16_000, None,         Some(24_000), Device, None, false, Full,          "fit on the device"),
            (16_000, Some(250),    Some(24_000), Device, None, false, LowMemory,     "250.00 MiB of host memory"),
            (21_536, Some(8000),   Some(24_000), Device, no,   false, Full,          "fit on the device"),
            (21_537, Some(64_000), Some(24_000), Device, no,   false, Streaming,     "23.44 GiB, and do on the host"),
            (21_537, Some(16_000), Some(24_000), Device, no,   false, LowMemory,     "nor on the host"),
            (21_537, Some(16_000), Some(24_000), Device, no,   true,  Streaming,     "a disk is named"),
            (  4000, Some(16_000), Some(16_000), Device, yes,  false, UnifiedMemory, "share one memory"),
            // The smaller of two opinions on one memory.
            (14_000, Some(12_000), Some(32_000), Device, yes,  false, LowMemory,     "nor on the host"),
            (14_000, Some(12_000), Some(32_000), Device, yes,  true,  Streaming,     "a disk is named"),
        ];
        for (kept, host, device, memory, unified, disk, expected, why) in table {
            let bytes = |mib: u64| mib << 20;
            let facts = MemoryFacts {
                weights: bytes(kept),
                host: host.map(bytes),
                device: device.map(bytes),
                memory,
                unified,
                disk,
            };
            let (found, reason) = choose(&facts);
            assert_eq!(found, expected, "{facts:?}: {reason}");
            assert!(reason.contains(why), "{facts:?}: {reason}");
        }
    }
}
