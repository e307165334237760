//! What was fetched over the network.

use serde::Serialize;

/// What a source has fetched over the network so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Fetched {
    /// Bytes of the bodies of all answers.
    #[serde(rename = "fetched_bytes")]
    pub bytes: u64,
    /// Requests, those that failed and those that were redirected among them.
    pub requests: u64,
}

impl core::ops::Add for Fetched {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            bytes: self.bytes + other.bytes,
            requests: self.requests + other.requests,
        }
    }
}
