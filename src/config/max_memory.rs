//! How much of each memory a model may take.

use core::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{Budget, BudgetError};

/// How much of each memory a model may take, cache and activations included: reads `0=20GiB,1=80%,cpu=60GiB,disk`.
///
/// A device that is not named has all of its memory. Matrices that no device holds go to host memory if that is named, then to disk
/// if that is.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MaxMemory {
    pub(crate) devices: Vec<(usize, Budget)>,
    pub(crate) host: Option<Budget>,
    pub(crate) disk: bool,
}

/// Memory that could not be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MaxMemoryError {
    /// Not a memory.
    #[error(
        "`{entry}` names no memory; write INDEX=SIZE for a device, cpu=SIZE, or disk: 0=20GiB,cpu=60GiB,disk"
    )]
    Entry {
        /// The entry.
        entry: String,
    },
    /// Not a size.
    #[error("`{entry}`: {source}")]
    Budget {
        /// The entry.
        entry: String,
        /// Why not.
        source: BudgetError,
    },
    /// A memory with two limits.
    #[error("`{memory}` has two limits; keep one of both")]
    Twice {
        /// The memory.
        memory: String,
    },
    /// A limit of the disk.
    #[error("`{entry}`: the disk has no limit here; write `disk` alone")]
    Disk {
        /// The entry.
        entry: String,
    },
}

impl MaxMemory {
    /// No limit, and nothing but devices.
    pub fn new() -> Self {
        Self::default()
    }

    /// Limits the device of this index; a later limit takes the place of an earlier one.
    pub fn device(mut self, index: usize, budget: Budget) -> Self {
        self.devices.retain(|(known, _)| *known != index);
        self.devices.push((index, budget));
        self
    }

    /// Lets host memory have what no device holds, up to `budget`.
    pub fn host(mut self, budget: Budget) -> Self {
        self.host = Some(budget);
        self
    }

    /// Lets a file have what neither devices nor host memory hold; [`StreamFrom::Disk`](super::StreamFrom) says in which folder.
    pub fn disk(mut self) -> Self {
        self.disk = true;
        self
    }

    /// The limit of a device.
    pub(crate) fn of(&self, index: usize) -> Option<Budget> {
        let mut devices = self.devices.iter();
        let limited = devices.find(|(known, _)| *known == index);
        limited.map(|(_, budget)| *budget)
    }
}

impl FromStr for MaxMemory {
    type Err = MaxMemoryError;

    fn from_str(text: &str) -> Result<Self, MaxMemoryError> {
        let mut all = Self::new();
        for entry in text.split(',').map(str::trim) {
            let (memory, size) = match entry.split_once('=') {
                Some((memory, size)) => (memory.trim(), Some(size)),
                None => (entry, None),
            };
            let (entry, twice) = (
                || entry.to_owned(),
                || MaxMemoryError::Twice {
                    memory: memory.to_owned(),
                },
            );
            let budget = size.map(|size| {
                let budget = size.parse::<Budget>();
                budget.map_err(|source| MaxMemoryError::Budget {
                    entry: entry(),
                    source,
                })
            });
            let index = memory.bytes().all(|byte| byte.is_ascii_digit());
            let index = index.then(|| memory.parse().ok()).flatten();
            match (memory, index, budget) {
                ("disk", _, None) if all.disk => return Err(twice()),
                ("disk", _, None) => all.disk = true,
                ("disk", _, Some(_)) => return Err(MaxMemoryError::Disk { entry: entry() }),
                ("cpu", _, Some(_)) if all.host.is_some() => return Err(twice()),
                ("cpu", _, Some(budget)) => all.host = Some(budget?),
                (_, Some(index), Some(_)) if all.of(index).is_some() => return Err(twice()),
                (_, Some(index), Some(budget)) => all.devices.push((index, budget?)),
                _ => return Err(MaxMemoryError::Entry { entry: entry() }),
            }
        }
        Ok(all)
    }
}

impl fmt::Display for MaxMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let devices = self.devices.iter();
        let devices = devices.map(|(index, budget)| format!("{index}={budget}"));
        let host = self.host.iter().map(|budget| format!("cpu={budget}"));
        let disk = self.disk.then(|| "disk".to_owned());
        let all: Vec<String> = devices.chain(host).chain(disk).collect();
        f.write_str(&all.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would catch units of a thousand that are taken for those of 1024, and limits that go to another memory.
    #[test]
    fn limits_are_read() {
        let all: MaxMemory = "0=20GiB, 1=20GB,3=80%,cpu=60GiB,disk"
            .parse()
            .expect("limits");
        let expected = MaxMemory::new()
            .device(0, Budget::Bytes(20 << 30))
            .device(1, Budget::Bytes(20_000_000_000))
            .device(3, Budget::Share(0.8))
            .host(Budget::Bytes(60 << 30))
            .disk();
        assert_eq!(all, expected);
        assert_eq!(all.of(2), None);
        let json = serde_json::to_string(&all).expect("plain data");
        assert_eq!(serde_json::from_str::<MaxMemory>(&json).expect(&json), all);
    }

    #[test]
    fn wrong_limits_are_refused_by_name() {
        for (text, named) in [
            ("", "``"),
            ("0", "`0`"),
            ("cpu", "`cpu`"),
            ("gpu=1GiB", "`gpu=1GiB`"),
            ("-1=1GiB", "`-1=1GiB`"),
            ("0=many", "`many`"),
            ("0=0GiB", "`0GiB`"),
            ("0=1GiB,0=2GiB", "`0` has two"),
            ("cpu=1GiB,cpu=2GiB", "`cpu` has two"),
            ("disk,disk", "`disk` has two"),
            ("disk=1GiB", "no limit"),
            ("0=1GiB,", "``"),
            ("0=101%", "`101%`"),
        ] {
            let error = text.parse::<MaxMemory>().expect_err(text).to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
