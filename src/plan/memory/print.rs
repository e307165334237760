//! A plan of memory for people: a column for each device and one for the host.

use core::fmt;

use super::{DeviceMemory, MemoryPlan};
use crate::config::Bytes;

/// Width of a column.
const WIDTH: usize = 12;

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = &self.host;
        let row = |f: &mut fmt::Formatter<'_>,
                   title: &str,
                   device: &dyn Fn(&DeviceMemory) -> Option<u64>,
                   host: Option<u64>| {
            let cells: Vec<Option<u64>> = self.devices.iter().map(device).chain([host]).collect();
            if cells.iter().all(|cell| matches!(cell, None | Some(0))) {
                return Ok(());
            }
            write!(f, "\n{title:14}")?;
            cells.iter().try_for_each(|cell| match cell {
                Some(bytes) => write!(f, "  {:>WIDTH$}", Bytes(*bytes).to_string()),
                None => write!(f, "  {:>WIDTH$}", "unknown"),
            })
        };
        write!(f, "{:14}", "memory")?;
        for device in &self.devices {
            write!(f, "  {:>WIDTH$}", device.place())?;
        }
        write!(f, "  {:>WIDTH$}", "host")?;
        write!(f, "\n{:14}", "layers")?;
        for device in &self.devices {
            write!(f, "  {:>WIDTH$}", runs(&device.layers))?;
        }
        row(f, "fixed", &|device| device.fixed, Some(host.fixed))?;
        row(
            f,
            "weights",
            &|device| Some(device.weights),
            Some(host.weights),
        )?;
        row(f, "in flight", &|_| Some(0), Some(host.in_flight))?;
        row(
            f,
            "scratch",
            &|device| Some(device.scratch),
            Some(host.scratch),
        )?;
        row(f, "cache", &|device| Some(device.cache), Some(0))?;
        row(
            f,
            "activations",
            &|device| Some(device.activations),
            Some(0),
        )?;
        row(f, "training", &|device| Some(device.training), Some(0))?;
        row(f, "in use", &|_| Some(0), Some(host.in_use))?;
        row(
            f,
            "peak",
            &|device| Some(device.peak_bytes),
            Some(host.peak_bytes),
        )?;
        if self.devices.iter().all(|device| device.limit.is_none()) {
            // Their tensors are in the host's memory, or nobody knows.
            let of = host
                .limit
                .map_or("unknown".to_owned(), |limit| Bytes(limit).to_string());
            let width = (WIDTH + 2) * (self.devices.len() + 1);
            return write!(f, "\n{:14}{of:>width$}", "of");
        }
        row(f, "of", &|device| device.limit, host.limit)
    }
}

/// Numbers in a row, shortened: `0-3,8`.
pub(crate) fn runs(numbers: &[usize]) -> String {
    let runs = numbers.chunk_by(|a, b| a + 1 == *b);
    let runs = runs.map(|run| match run {
        [one] => one.to_string(),
        [first, .., last] => format!("{first}-{last}"),
        [] => String::new(),
    });
    let runs = runs.collect::<Vec<_>>().join(",");
    if runs.is_empty() {
        "none".to_owned()
    } else {
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::runs;

    #[test]
    fn numbers_in_a_row_are_shortened() {
        for (numbers, expected) in [
            (&[][..], "none"),
            (&[4], "4"),
            (&[0, 1, 2, 3, 8], "0-3,8"),
            (&[1, 3, 4], "1,3-4"),
        ] {
            assert_eq!(runs(numbers), expected);
        }
    }
}
