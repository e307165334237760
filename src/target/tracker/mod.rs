//! The memory of devices and of the host, as it is now.
//!
//! What cannot be known is `None`: no number is guessed.
//!
//! | of | total | free | used by this process |
//! |---|---|---|---|
//! | the host | the machine's, or the limit of its control group | what the system could give, caches included | anonymous memory |
//! | a device on the host | as the host | as the host | as the host |
//! | an NVIDIA card, with the feature `nvml` | the driver | the driver | the driver, or the pools of CubeCL |
//! | an AMD card on Linux | the driver | the driver | the pools of CubeCL |
//! | any other device | what CubeCL tells | unknown | the pools of CubeCL |

#[cfg(feature = "cube")]
mod card;

use core::{fmt, marker::PhantomData};

use burn::tensor::Device;
use serde::Serialize;

use super::{MemoryKind, Target, TargetError, memory};
use crate::config::Bytes;

/// The memory of one place at one moment, in bytes; `None` where nobody tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct MemoryReading {
    /// The target, or `host`.
    pub target: &'static str,
    /// The index of the device; `None` for the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    /// The name that its driver has for it.
    pub name: String,
    /// All of it.
    pub total: Option<u64>,
    /// That could be had now.
    pub free: Option<u64>,
    /// That this process has.
    pub used: Option<u64>,
    /// The most that this process had: of the host since it began, of a device since the tracker looks.
    pub peak: Option<u64>,
}

/// Looks at the memory of the host and of devices of one target.
///
/// ```
/// use firebox::{Cpu, target::MemoryTracker};
///
/// let mut tracker = MemoryTracker::<Cpu>::new([0])?;
/// let [host, device] = &tracker.look()[..] else { panic!("the host and one device") };
/// assert_eq!(device.total, host.total);
/// # Ok::<(), firebox::target::TargetError>(())
/// ```
#[derive(Debug)]
pub struct MemoryTracker<T: Target> {
    devices: Vec<TrackedDevice>,
    target: PhantomData<T>,
}

#[derive(Debug)]
struct TrackedDevice {
    index: usize,
    device: Device,
    name: String,
    total: Option<u64>,
    peak: Option<u64>,
}

/// Devices of one target at most.
const DEVICES_MAX: usize = 64;

impl<T: Target> MemoryTracker<T> {
    /// A tracker of the devices with these indices.
    ///
    /// # Errors
    ///
    /// [`TargetError`] where one of them cannot be opened.
    pub fn new(indices: impl IntoIterator<Item = usize>) -> Result<Self, TargetError> {
        let devices = indices.into_iter().map(|index| {
            let device = T::device(index)?;
            let abilities = T::capabilities(&device);
            Ok(TrackedDevice {
                index,
                name: abilities.name,
                total: abilities.memory,
                device,
                peak: None,
            })
        });
        Ok(Self {
            devices: devices.collect::<Result<_, TargetError>>()?,
            target: PhantomData,
        })
    }

    /// A tracker of all devices that the driver finds. In host memory there is one: others are the same.
    ///
    /// # Errors
    ///
    /// [`TargetError`] where there is none, and where one cannot be opened.
    pub fn all() -> Result<Self, TargetError> {
        if T::MEMORY == MemoryKind::Host {
            return Self::new([0]);
        }
        let mut tracker = Self::new([0])?;
        for index in 1..DEVICES_MAX {
            match Self::new([index]) {
                Ok(more) => tracker.devices.extend(more.devices),
                Err(TargetError::NoDevice { .. }) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(tracker)
    }

    /// The memory now: of the host, then of each device.
    pub fn look(&mut self) -> Vec<MemoryReading> {
        let host = host();
        let devices: Vec<MemoryReading> = self
            .devices
            .iter_mut()
            .map(|tracked| match T::MEMORY {
                MemoryKind::Host => MemoryReading {
                    target: T::NAME,
                    index: Some(tracked.index),
                    name: tracked.name.clone(),
                    ..host.clone()
                },
                MemoryKind::Device => tracked.look(T::NAME),
            })
            .collect();
        [host].into_iter().chain(devices).collect()
    }
}

impl TrackedDevice {
    fn look(&mut self, target: &'static str) -> MemoryReading {
        let pools = self.device.memory_pool_usage();
        let pools = pools.map(|usage| usage.bytes_reserved);
        #[cfg(feature = "cube")]
        let card = super::cube::pci_address(&self.device).and_then(|address| card::look(&address));
        #[cfg(feature = "cube")]
        let [total, free, used] = card.map_or([None; 3], |card| {
            [Some(card.total), Some(card.free), card.used]
        });
        #[cfg(not(feature = "cube"))]
        let [total, free, used] = [None; 3];
        let used = used.or(pools);
        self.peak = self.peak.max(used);
        MemoryReading {
            target,
            index: Some(self.index),
            name: self.name.clone(),
            total: total.or(self.total),
            free,
            used,
            peak: self.peak,
        }
    }
}

/// The memory of the host.
fn host() -> MemoryReading {
    MemoryReading {
        target: "host",
        index: None,
        name: "host".to_owned(),
        total: memory::available(),
        free: memory::free(),
        used: memory::anonymous(),
        peak: memory::most_resident(),
    }
}

/// `cuda 0 (NVIDIA …): 24.00 GiB, 20.00 GiB free, 3.00 GiB used by this process, 3.10 GiB at most`
impl fmt::Display for MemoryReading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |bytes: Option<u64>| {
            bytes.map_or("unknown".to_owned(), |bytes| Bytes(bytes).to_string())
        };
        match self.index {
            Some(index) => write!(f, "{} {index} ({})", self.target, self.name)?,
            None => f.write_str(self.target)?,
        }
        write!(
            f,
            ": {} in all, {} free, {} used by this process, {} at most",
            shown(self.total),
            shown(self.free),
            shown(self.used),
            shown(self.peak)
        )
    }
}
