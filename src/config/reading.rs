//! How files are read.

use core::{fmt, str::FromStr};

/// How the weights of a folder are read. Other files, and the headers of weights, are always read through the page
/// cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Reading {
    /// As a short [`Probe`](crate::source::Probe) of the disk says, from 1 GiB of weights on: past the page cache where that
    /// pays, mapped from any other disk of this machine, and buffered where a map could lose its disk. What is smaller
    /// is buffered.
    #[default]
    Auto,
    /// Through the page cache, by positional reads.
    Buffered,
    /// From a map of the file. What a module keeps as it is stored stays there and is never copied, for as long as the model
    /// lives: loading is as quick as making pages present, takes no memory besides the page cache, and several
    /// processes have one copy. All else is converted from there without a copy in between: no faster from a disk; from the page
    /// cache it is.
    ///
    /// A file that another program changes is a model that changes; one that it cuts, or a disk that fails, ends the process
    /// with a signal, whenever a weight is used or converted.
    Mapped,
    /// Past the page cache (`O_DIRECT`), on Linux. Leaves the page cache alone, and reads from the disk again what was
    /// read before. Takes a third of the processor time where `into` is as far from a multiple of 4096 as the offset
    /// in the file.
    Direct,
}

impl Reading {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Auto, "auto"),
        (Self::Buffered, "buffered"),
        (Self::Mapped, "mapped"),
        (Self::Direct, "direct"),
    ];
}

impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(reading, _)| reading == self);
        f.pad(name.map_or("", |(_, name)| name))
    }
}

impl FromStr for Reading {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .iter()
            .find(|(_, name)| *name == text)
            .map(|(reading, _)| *reading)
            .ok_or("write auto, buffered, mapped or direct")
    }
}
