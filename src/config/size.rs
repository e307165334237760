//! Numbers of bytes, as people write and read them.

use core::{fmt, str::FromStr};

/// A number of bytes: reads `2GiB`, `1.5GB`, `512 MiB`, `4096`; prints `1.50 GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

/// A size that could not be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a size; write 512MiB, 2GiB, 1.5GB or a plain number of bytes")]
pub struct SizeError(String);

const UNITS: [(&str, u64); 10] = [
    ("", 1),
    ("b", 1),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
];

impl FromStr for Bytes {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let error = || SizeError(text.to_owned());
        let lower = text.trim().to_ascii_lowercase();
        let split = lower
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(lower.len());
        let (number, unit) = lower.split_at(split);
        let unit = UNITS
            .iter()
            .find(|(name, _)| *name == unit.trim())
            .ok_or_else(error)?
            .1;
        let number: f64 = number.parse().map_err(|_| error())?;
        let bytes = number * unit as f64;
        if bytes.is_finite() && bytes < u64::MAX as f64 {
            Ok(Self(bytes.round() as u64))
        } else {
            Err(error())
        }
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut value, mut unit) = (self.0 as f64, "B");
        for larger in ["KiB", "MiB", "GiB", "TiB"] {
            if value < 1024.0 {
                break;
            }
            (value, unit) = (value / 1024.0, larger);
        }
        if unit == "B" {
            write!(f, "{} B", self.0)
        } else {
            write!(f, "{value:.2} {unit}")
        }
    }
}
