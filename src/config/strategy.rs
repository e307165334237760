//! Where finished weights live, and how far the reader is ahead of them.

use core::{fmt, str::FromStr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where finished weights live, and how much of the checkpoint may be in host memory besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Strategy {
    /// One of the others, chosen by the sizes of weights and memories. The plan says which and why.
    #[default]
    Auto,
    /// On the device. Reads well ahead of the workers: 256 MiB in flight.
    Full,
    /// On the device. Reads just enough ahead to keep the disk busy: 32 MiB in flight.
    LowMemory,
    /// In the one memory that the host and a graphics device share. A tile that is uploaded to such a device is a
    /// second copy of itself in the same memory, so none is: the host's threads pack, each finished weight is
    /// handed to the device once and its host copy freed, and 32 MiB are in flight. It is the device's allocator
    /// that owns the weight in the end, hence the one copy in between. On a host target it is
    /// [`LowMemory`](Self::LowMemory): there, finished weights are moved into their tensors anyway.
    UnifiedMemory,
    /// Matrices stay packed in host memory or in a file ([`StreamFrom`]), and reach the device when a product needs
    /// them: the next ones are fetched ahead meanwhile, in the order of the last pass, and freed after use. For
    /// inference and for training adapters; the matrices themselves get no gradient. What is no matrix is on the
    /// device, and so are the rows of an embedding, looked up on the host.
    Streaming,
}

/// Where streamed weights stay.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum StreamFrom {
    /// In host memory.
    #[default]
    Host,
    /// In a file that is made in this folder, as large as the finished matrices, and gone with the model.
    Disk(PathBuf),
}

impl Strategy {
    pub(crate) const fn in_flight_bytes_max(self) -> u64 {
        match self {
            Self::Auto | Self::Full => 256 << 20,
            Self::LowMemory | Self::UnifiedMemory | Self::Streaming => 32 << 20,
        }
    }
}

impl Strategy {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Auto, "auto"),
        (Self::Full, "full"),
        (Self::LowMemory, "low-memory"),
        (Self::UnifiedMemory, "unified-memory"),
        (Self::Streaming, "streaming"),
    ];
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(strategy, _)| strategy == self);
        f.write_str(name.map_or("", |(_, name)| name))
    }
}

impl FromStr for Strategy {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .iter()
            .find(|(_, name)| *name == text)
            .map(|(strategy, _)| *strategy)
            .ok_or("write auto, full, low-memory, unified-memory or streaming")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would catch a strategy that cannot be asked for by the name under which plan and report print it.
    #[test]
    fn every_strategy_is_read_by_its_name() {
        use Strategy::{Auto, Full, LowMemory, Streaming, UnifiedMemory};
        for (name, strategy) in [
            ("auto", Auto),
            ("full", Full),
            ("low-memory", LowMemory),
            ("unified-memory", UnifiedMemory),
            ("streaming", Streaming),
        ] {
            assert_eq!(name.parse(), Ok(strategy));
            assert_eq!(strategy.to_string(), name);
        }
        for name in ["", "Full", "low_memory", "full "] {
            let error = name.parse::<Strategy>().unwrap_err();
            assert!(error.contains("low-memory"), "{name:?}: {error}");
        }
    }
}
