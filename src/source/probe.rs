//! How weights are read, and why.

use crate::config::Reading;

/// How the weights of a folder are read, and why.
///
/// Made once, at the first large read in [`Reading::Auto`]: 64 places of the weights are looked up in the page cache, and
/// where they are not there, ranges that are not in the cache are read in both ways, twice in turn, for 20 ms and 14 MiB at
/// most. Direct reads are taken at their worst, the others at their best.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Probe {
    /// Bytes of all weights in the folder.
    pub weight_bytes: u64,
    /// The share of the weights that is in the page cache, where the system can say.
    pub cached_fraction: Option<f64>,
    /// The most that reads through the page cache reached, in GB/s, where they were timed.
    pub buffered_gbps: Option<f64>,
    /// The least that reads past it reached, in GB/s, where they were timed.
    pub direct_gbps: Option<f64>,
    /// [`Reading::Mapped`] or [`Reading::Direct`]; [`Reading::Buffered`] where there is little to read, or a map could lose
    /// its disk.
    pub chosen: Reading,
    /// Why, in a few words.
    pub reason: &'static str,
}
