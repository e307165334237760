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

    /// Would catch a limit taken of the wrong memory, a device that is called shared because nobody says
    /// otherwise, and a file written where nobody asked for one.
    #[test]
    fn the_choice_follows_the_table() {
        use Memory::{Device, Host};
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
            let facts = Facts {
                bytes_kept: bytes(kept),
                host: host.map(bytes),
                device: device.map(bytes),
                memory,
                unified,
                disk,
            };
            let (found, reason) = Strategy::choose(&facts);
            assert_eq!(found, expected, "{facts:?}: {reason}");
            assert!(reason.contains(why), "{facts:?}: {reason}");
        }
    }
}
