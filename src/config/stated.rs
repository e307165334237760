//! The memory of a machine, as somebody states it.

use core::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::size::Bytes;

/// Devices of one machine at most.
const DEVICES_MAX: usize = 64;

/// Bytes of memory that devices have, one number a device: reads `24GiB,24GiB` and `8x80GiB`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DeviceMemories(Vec<u64>);

/// The memory of a machine that a plan is made for. It need not be this machine.
///
/// ```
/// use firebox::config::StatedMemory;
///
/// let memory = StatedMemory::new("2x24GiB".parse()?).host(64 << 30);
/// assert_eq!(memory.devices.bytes(), [24 << 30, 24 << 30]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatedMemory {
    /// Of each device.
    pub devices: DeviceMemories,
    /// Of the host; that of this machine if not given.
    pub host: Option<u64>,
}

/// Memory that could not be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StatedMemoryError {
    /// Not a size.
    #[error(
        "`{found}` is no memory of devices; write a size for each, as in 24GiB,24GiB or 8x80GiB"
    )]
    Size {
        /// The text.
        found: String,
    },
    /// Memory of no size.
    #[error("`{found}` states a device without memory; every device has to have some")]
    Nothing {
        /// The text.
        found: String,
    },
    /// No device, or more than any machine has.
    #[error("`{found}` states {devices} devices; a plan is made for 1 to {DEVICES_MAX}")]
    Devices {
        /// The text.
        found: String,
        /// How many.
        devices: usize,
    },
}

impl DeviceMemories {
    /// Devices with these numbers of bytes.
    ///
    /// # Errors
    ///
    /// [`StatedMemoryError`] for no device, for more than 64, and for one without memory.
    pub fn new(bytes: Vec<u64>) -> Result<Self, StatedMemoryError> {
        let text = || format!("{bytes:?}");
        Self::checked(bytes.clone(), &text())
    }

    fn checked(bytes: Vec<u64>, text: &str) -> Result<Self, StatedMemoryError> {
        let found = text.to_owned();
        let devices = bytes.len();
        if !(1..=DEVICES_MAX).contains(&devices) {
            return Err(StatedMemoryError::Devices { found, devices });
        }
        match bytes.contains(&0) {
            true => Err(StatedMemoryError::Nothing { found }),
            false => Ok(Self(bytes)),
        }
    }

    /// The bytes of each device.
    pub fn bytes(&self) -> &[u64] {
        &self.0
    }
}

impl StatedMemory {
    /// Devices with this memory, on a host like this machine.
    pub fn new(devices: DeviceMemories) -> Self {
        Self {
            devices,
            host: None,
        }
    }

    /// On a host with so many bytes.
    pub fn host(mut self, bytes: u64) -> Self {
        self.host = Some(bytes);
        self
    }
}

impl FromStr for DeviceMemories {
    type Err = StatedMemoryError;

    fn from_str(text: &str) -> Result<Self, StatedMemoryError> {
        let wrong = || StatedMemoryError::Size {
            found: text.to_owned(),
        };
        let mut bytes = Vec::new();
        for part in text.split(',') {
            let part = part.trim();
            let times = part.split_once(['x', 'X']);
            let (count, size) = match times {
                Some((count, size)) => (count.trim().parse().map_err(|_| wrong())?, size),
                None => (1, part),
            };
            let Bytes(size) = size.parse().map_err(|_| wrong())?;
            if bytes.len().saturating_add(count) > DEVICES_MAX {
                return Err(StatedMemoryError::Devices {
                    found: text.to_owned(),
                    devices: bytes.len().saturating_add(count),
                });
            }
            bytes.extend(core::iter::repeat_n(size, count));
        }
        Self::checked(bytes, text)
    }
}

impl fmt::Display for DeviceMemories {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut runs = self.0.chunk_by(|a, b| a == b).enumerate();
        runs.try_for_each(|(nth, run)| {
            if nth > 0 {
                f.write_str(",")?;
            }
            if run.len() > 1 {
                write!(f, "{}x", run.len())?;
            }
            f.write_str(&Bytes(run[0]).to_string().replace(' ', ""))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would catch a factor that is taken for a size, and devices that are lost when they are printed.
    #[test]
    fn memories_are_read_and_printed() {
        let gib = 1_u64 << 30;
        for (text, bytes, printed) in [
            ("24GiB", vec![24 * gib], "24.00GiB"),
            ("24GiB,24GiB", vec![24 * gib; 2], "2x24.00GiB"),
            (
                "2x24GiB, 8 GiB",
                vec![24 * gib, 24 * gib, 8 * gib],
                "2x24.00GiB,8.00GiB",
            ),
            ("1GB", vec![1_000_000_000], "953.67MiB"),
        ] {
            let memories: DeviceMemories = text.parse().expect(text);
            assert_eq!(memories.bytes(), bytes, "{text}");
            assert_eq!(memories.to_string(), printed, "{text}");
        }
    }

    #[test]
    fn impossible_memories_are_refused_by_name() {
        use StatedMemoryError::{Devices, Nothing, Size};
        let error = |text: &str| text.parse::<DeviceMemories>().expect_err(text);
        for text in ["", "many", "24GiB,", "24QiB", "-1GiB", "x24GiB", "2x"] {
            assert!(
                matches!(error(text), Size { .. }),
                "{text:?}: {:?}",
                error(text)
            );
        }
        for text in ["0", "24GiB,0GiB"] {
            assert!(matches!(error(text), Nothing { .. }), "{text}");
        }
        for text in ["0x24GiB", "65x24GiB", "99999999999x1GiB"] {
            assert!(matches!(error(text), Devices { .. }), "{text}");
        }
        assert!(error("24QiB").to_string().contains("`24QiB`"));
    }
}
