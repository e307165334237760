//! A file of a store, as its first answer told it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use object_store::ObjectMeta;

/// Bytes of the beginning of a file that are kept at most: headers are looked at several times.
const HEAD_MAX: usize = 32 << 20;

/// A file of a store, as its first answer told it.
#[derive(Debug)]
pub(super) struct RemoteFile {
    pub(super) len: u64,
    pub(super) state: FileState,
    /// Its first bytes, as many as were looked at.
    head: Mutex<Vec<u8>>,
}

/// What tells a file from another one that takes its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FileState {
    ETag(String),
    /// Seconds since 1970.
    Modified(i64),
    Unknown,
}

impl FileState {
    pub(super) fn of(meta: &ObjectMeta) -> Self {
        match (&meta.e_tag, meta.last_modified.timestamp()) {
            (Some(etag), _) => Self::ETag(etag.clone()),
            // `object_store` has no other word for none.
            (None, 0) => Self::Unknown,
            (None, seconds) => Self::Modified(seconds),
        }
    }

    /// The ETag that a request can depend on. One that is weak never matches.
    pub(super) fn condition(&self) -> Option<String> {
        match self {
            Self::ETag(etag) if !etag.starts_with("W/") => Some(etag.clone()),
            _ => None,
        }
    }

    /// In words.
    pub(super) fn said(&self, len: u64) -> String {
        match self {
            Self::ETag(etag) => format!("{len} bytes with the ETag {etag}"),
            Self::Modified(seconds) => format!("{len} bytes of second {seconds} since 1970"),
            Self::Unknown => format!("{len} bytes"),
        }
    }
}

impl RemoteFile {
    pub(super) fn new(len: u64, state: FileState, head: Vec<u8>) -> Self {
        Self {
            len,
            state,
            head: Mutex::new(head),
        }
    }

    /// Copies what is there of the bytes from `offset` on; how many.
    pub(super) fn known(&self, offset: u64, into: &mut [u8]) -> usize {
        let head = self.head();
        let there = usize::try_from(offset)
            .ok()
            .and_then(|offset| head.get(offset..));
        let there = there.unwrap_or_default();
        let len = there.len().min(into.len());
        into[..len].copy_from_slice(&there[..len]);
        len
    }

    /// Keeps bytes that follow those that are there.
    pub(super) fn keep(&self, offset: u64, bytes: &[u8]) {
        let mut head = self.head();
        if offset == head.len() as u64 && head.len() + bytes.len() <= HEAD_MAX {
            head.extend_from_slice(bytes);
        }
    }

    fn head(&self) -> MutexGuard<'_, Vec<u8>> {
        self.head.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
