//! Where finished weights live, and how far the reader is ahead of them.

use core::fmt;
use std::path::PathBuf;

use super::size::Bytes;
use crate::target::Memory;

/// Where finished weights live, and how much of the checkpoint may be in host memory besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Strategy {
    /// One of the others, by [`choose`](Self::choose).
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
    /// Matrices stay packed in host memory or in a file ([`Keep`]), and reach the device when a product needs
    /// them: the next ones are fetched ahead meanwhile, in the order of the last pass, and freed after use. For
    /// inference and for training adapters; the matrices themselves get no gradient. What is no matrix is on the
    /// device, and so are the rows of an embedding, looked up on the host.
    Streaming,
}

/// Where streamed weights stay.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Keep {
    /// In host memory.
    #[default]
    Host,
    /// In a file that is made in this folder, as large as the finished matrices, and gone with the model.
    Disk(PathBuf),
}

/// What a strategy is chosen by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Bytes of the finished weights.
    pub bytes_kept: u64,
    /// Bytes of host memory that may be used, `None` where nobody tells.
    pub host: Option<u64>,
    /// Bytes of the device's memory that may be used, `None` where nobody tells. Ignored for a host target.
    pub device: Option<u64>,
    /// Where the target's tensors are.
    pub memory: Memory,
    /// Whether host and device share one memory.
    pub unified: Option<bool>,
    /// Whether there is a folder for a file to stream from.
    pub disk: bool,
}

/// Room beside the weights of a device: rows that are unpacked at a time while they are multiplied.
const SCRATCH: u64 = 64 << 20;

impl Strategy {
    /// The strategy for these facts, and why. Weights fit where they and what is in flight take nine tenths of a
    /// memory at most; an unknown memory is taken to be large enough. Nothing is written to a disk that nobody
    /// has named: a model that fits nowhere is left to [`LowMemory`](Self::LowMemory), and refused by its plan.
    pub fn choose(facts: &Facts) -> (Self, String) {
        let Facts {
            bytes_kept,
            host,
            device,
            memory,
            unified,
            disk,
        } = *facts;
        let fits = |bytes: u64, memory: Option<u64>| memory.is_none_or(|all| bytes <= all / 10 * 9);
        let beside = |strategy: Self| bytes_kept.saturating_add(strategy.in_flight_bytes_max());
        let (kept, full) = (Bytes(bytes_kept), Bytes(Self::Full.in_flight_bytes_max()));
        let told = |memory: Option<u64>| Bytes(memory.unwrap_or(u64::MAX));

        if memory == Memory::Host {
            return if fits(beside(Self::Full), host) {
                (
                    Self::Full,
                    format!("{kept} of weights and {full} in flight fit in memory"),
                )
            } else if fits(beside(Self::LowMemory), host) {
                let host = told(host);
                (
                    Self::LowMemory,
                    format!("{kept} of weights leave little of {host} to read ahead"),
                )
            } else if disk {
                let host = told(host);
                (
                    Self::Streaming,
                    format!("{kept} of weights do not fit in {host}, and a disk is named"),
                )
            } else {
                let host = told(host);
                let reason = format!(
                    "{kept} of weights do not fit in {host}, and no disk is named to stream from"
                );
                (Self::LowMemory, reason)
            };
        }
        let shared = unified == Some(true);
        // One memory has to hold both sides' bytes.
        let device = if shared {
            [device, host].into_iter().flatten().min()
        } else {
            device
        };
        if fits(bytes_kept.saturating_add(SCRATCH), device) {
            return if shared {
                (
                    Self::UnifiedMemory,
                    "host and device share one memory".to_owned(),
                )
            } else if fits(Self::Full.in_flight_bytes_max(), host) {
                (
                    Self::Full,
                    format!(
                        "{kept} of weights fit on the device, and {full} in flight on the host"
                    ),
                )
            } else {
                let host = told(host);
                (
                    Self::LowMemory,
                    format!("{host} of host memory leave little to read ahead"),
                )
            };
        }
        let device = told(device);
        if disk {
            (
                Self::Streaming,
                format!(
                    "{kept} of weights do not fit in the device's {device}, and a disk is named"
                ),
            )
        } else if !shared && fits(beside(Self::Streaming), host) {
            (
                Self::Streaming,
                format!(
                    "{kept} of weights do not fit in the device's {device}, and do on the host"
                ),
            )
        } else {
            let reason = format!(
                "{kept} of weights do not fit in the device's {device} nor on the host, and no disk is named to stream from"
            );
            (Self::LowMemory, reason)
        }
    }

    /// Whether weights are packed on the host, whatever the target can do.
    pub(crate) const fn packs_on_host(self) -> bool {
        matches!(self, Self::UnifiedMemory | Self::Streaming)
    }

    pub(crate) const fn in_flight_bytes_max(self) -> u64 {
        match self {
            Self::Auto | Self::Full => 256 << 20,
            Self::LowMemory | Self::UnifiedMemory | Self::Streaming => 32 << 20,
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Full => "full",
            Self::LowMemory => "low-memory",
            Self::UnifiedMemory => "unified-memory",
            Self::Streaming => "streaming",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    /// Would catch a limit taken of the wrong memory, a device that is called shared because nobody says
    /// otherwise, and a file written where nobody asked for one.
    #[test]
    fn the_choice_follows_the_table() {
        use Memory::{Device, Host};
        use Strategy::{Full, LowMemory, Streaming, UnifiedMemory};
        let (some, none) = (|gib: u64| Some(gib * GIB), None);
        // Weights, host and device in GiB; where tensors are; shared; a disk is named.
        for (kept, host, device, memory, unified, disk, expected, why) in [
            (
                4,
                some(16),
                none,
                Host,
                Some(true),
                false,
                Full,
                "fit in memory",
            ),
            (
                4,
                none,
                none,
                Host,
                Some(true),
                false,
                Full,
                "fit in memory",
            ),
            (
                14,
                some(16),
                none,
                Host,
                Some(true),
                false,
                LowMemory,
                "leave little of 16.00 GiB",
            ),
            (
                14,
                some(16),
                none,
                Host,
                Some(true),
                true,
                LowMemory,
                "leave little",
            ),
            (
                15,
                some(16),
                none,
                Host,
                Some(true),
                false,
                LowMemory,
                "no disk is named",
            ),
            (
                15,
                some(16),
                none,
                Host,
                Some(true),
                true,
                Streaming,
                "a disk is named",
            ),
            // The device's memory is not a host target's.
            (
                4,
                some(16),
                some(1),
                Host,
                Some(true),
                false,
                Full,
                "fit in memory",
            ),
            (
                16,
                some(8),
                some(24),
                Device,
                Some(false),
                false,
                Full,
                "fit on the device",
            ),
            (
                16,
                some(8),
                none,
                Device,
                none_flag(),
                false,
                Full,
                "fit on the device",
            ),
            (
                16,
                none,
                some(24),
                Device,
                none_flag(),
                false,
                Full,
                "fit on the device",
            ),
            (
                22,
                some(64),
                some(24),
                Device,
                Some(false),
                false,
                Streaming,
                "device's 24.00 GiB, and do on the host",
            ),
            (
                22,
                some(16),
                some(24),
                Device,
                Some(false),
                false,
                LowMemory,
                "nor on the host",
            ),
            (
                22,
                some(16),
                some(24),
                Device,
                Some(false),
                true,
                Streaming,
                "a disk is named",
            ),
            (
                4,
                some(16),
                some(16),
                Device,
                Some(true),
                false,
                UnifiedMemory,
                "share one memory",
            ),
            // The smaller of two opinions on one memory.
            (
                14,
                some(12),
                some(32),
                Device,
                Some(true),
                false,
                LowMemory,
                "nor on the host",
            ),
            (
                14,
                some(12),
                some(32),
                Device,
                Some(true),
                true,
                Streaming,
                "a disk is named",
            ),
        ] {
            let facts = Facts {
                bytes_kept: kept * GIB,
                host,
                device,
                memory,
                unified,
                disk,
            };
            let (found, reason) = Strategy::choose(&facts);
            assert_eq!(found, expected, "{facts:?}: {reason}");
            assert!(reason.contains(why), "{facts:?}: {reason}");
        }
        let small = Facts {
            bytes_kept: 16 * GIB,
            host: Some(256 << 20),
            device: some(24),
            memory: Device,
            unified: None,
            disk: false,
        };
        assert_eq!(Strategy::choose(&small).0, LowMemory, "a small host");
    }

    const fn none_flag() -> Option<bool> {
        None
    }
}
