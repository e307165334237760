//! What was fetched over the network.

use core::fmt;

use serde::Serialize;

use crate::config::Bytes;

/// What a source has fetched over the network so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct FetchTotals {
    /// Bytes of the bodies of all answers.
    #[serde(rename = "fetched_bytes")]
    pub bytes: u64,
    /// Requests, those that failed and those that were redirected among them.
    pub requests: u64,
}

/// In words: `fetched 6.63 MiB in 12 requests`.
impl fmt::Display for FetchTotals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes, requests } = self;
        let requests_said = if *requests == 1 {
            "request"
        } else {
            "requests"
        };
        write!(f, "fetched {} in {requests} {requests_said}", Bytes(*bytes))
    }
}

impl core::ops::Add for FetchTotals {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            bytes: self.bytes + other.bytes,
            requests: self.requests + other.requests,
        }
    }
}
