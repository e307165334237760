//! The length and the checksum of a written file.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

/// What a journal tells of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileSum {
    /// Bytes of the file.
    bytes: u64,
    /// XXH3 of those that are no tensor's: of the header of a file of weights, and of all bytes of another file.
    pub(super) xxh3: String,
}

impl FileSum {
    /// Of a file that is `head`, and `tensors` bytes of tensors after it.
    pub(super) fn new(head: &[u8], tensors: u64) -> Self {
        Self {
            bytes: head.len() as u64 + tensors,
            xxh3: format!("{:016x}", xxh3_64(head)),
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}
