//! How much is read ahead, and by how many threads.

use std::num::NonZeroUsize;

use crate::config::Workers;

/// How much is read ahead, and by how many threads it is converted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowance {
    /// Bytes of source weights that may be in host memory at once.
    pub(super) in_flight: u64,
    /// Bytes that are read at once, about.
    pub(super) tile: u64,
    /// Threads that convert.
    pub(super) workers: usize,
}

/// Bytes of a tile that a worker gets at least: below, waking it costs more than its work.
const WORKER_BYTES: u64 = 64 << 10;

/// Threads that share tiles of `tile` bytes, where the host `converts` at all.
pub(super) fn worker_count(workers: Workers, tile: u64, converts: bool) -> usize {
    let useful = if converts { tile / WORKER_BYTES } else { 1 };
    match workers {
        Workers::Auto => usize::try_from(useful)
            .unwrap_or(usize::MAX)
            .clamp(1, cores()),
        Workers::Count(count) => count.get(),
    }
}

/// Threads that the process may run at once.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}
