//! Counts what is fetched.

use std::sync::atomic::{AtomicU64, Ordering};

use super::FetchTotals;

/// Counts what is fetched.
#[derive(Debug, Default)]
pub(super) struct Tally {
    bytes: AtomicU64,
    requests: AtomicU64,
}

impl Tally {
    pub(super) fn request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn bytes(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn fetched(&self) -> FetchTotals {
        FetchTotals {
            bytes: self.bytes.load(Ordering::Relaxed),
            requests: self.requests.load(Ordering::Relaxed),
        }
    }
}
