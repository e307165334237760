//! How downloads are reported.

use core::fmt;
use core::ops::ControlFlow;
use std::sync::Arc;

/// How far the download of a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Download<'a> {
    /// The file.
    pub file: &'a str,
    /// Bytes that are there, those of an earlier, interrupted download among them.
    pub done: u64,
    /// Bytes of the file.
    pub total: u64,
}

/// A function that gets the progress of downloads, and may stop them.
#[derive(Clone)]
pub(super) struct Hook(pub(super) Arc<OnDownload>);

type OnDownload = dyn Fn(&Download<'_>) -> ControlFlow<()> + Send + Sync;

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hook")
    }
}
