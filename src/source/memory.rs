//! Files in memory, for tests and examples. They fail, end early or dawdle on request.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Source, SourceError, stays_inside};

/// Files in memory.
///
/// ```
/// use firebox::source::{Memory, SourceExt};
///
/// let source = Memory::new().with("config.json", b"{}");
/// assert_eq!(source.read("config.json")?, b"{}");
/// assert_eq!(source.read_optional("index.json")?, None);
/// # Ok::<(), firebox::source::SourceError>(())
/// ```
#[derive(Debug, Default)]
pub struct Memory {
    files: BTreeMap<String, Arc<[u8]>>,
    state: Mutex<MemoryState>,
}

#[derive(Debug, Default)]
struct MemoryState {
    faults: HashMap<String, Fault>,
    reads: Vec<(String, Range<u64>)>,
}

/// A failure of reads. The size of the file is always right: each fault strikes a reader
/// that has already made its plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// A read that touches this byte or a later one fails with [`SourceError::Io`].
    FailFrom(u64),
    /// The file turns out to end here: a read beyond fails with [`SourceError::Truncated`].
    CutAt(u64),
    /// Each read waits first.
    Slow(Duration),
}

impl Memory {
    /// No files.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file, or replaces it.
    #[must_use]
    pub fn with(mut self, file: impl Into<String>, bytes: impl AsRef<[u8]>) -> Self {
        self.files.insert(file.into(), bytes.as_ref().into());
        self
    }

    /// Takes a file away, if it is there.
    #[must_use]
    pub fn without(mut self, file: &str) -> Self {
        self.files.remove(file);
        self
    }

    /// From now on this goes wrong when `file` is read, in place of what went wrong before.
    pub fn fault(&self, file: impl Into<String>, fault: Fault) {
        self.state().faults.insert(file.into(), fault);
    }

    /// From now on nothing goes wrong.
    pub fn heal(&self) {
        self.state().faults.clear();
    }

    /// Every read so far, failed ones too, in the order in which they came.
    #[must_use]
    pub fn reads(&self) -> Vec<(String, Range<u64>)> {
        self.state().reads.clone()
    }

    fn state(&self) -> MutexGuard<'_, MemoryState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bytes(&self, file: &str) -> Result<&Arc<[u8]>, SourceError> {
        let (at, name) = (self.describe(), file.to_owned());
        if !stays_inside(file) {
            return Err(SourceError::Name { at, file: name });
        }
        self.files
            .get(file)
            .ok_or(SourceError::NotFound { at, file: name })
    }
}

impl Source for Memory {
    fn describe(&self) -> String {
        "memory".to_owned()
    }

    fn size(&self, file: &str) -> Result<u64, SourceError> {
        Ok(self.bytes(file)?.len() as u64)
    }

    fn read_at(&self, file: &str, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        let bytes = self.bytes(file)?;
        let end = offset.saturating_add(into.len() as u64);
        let fault = {
            let mut state = self.state();
            state.reads.push((file.to_owned(), offset..end));
            state.faults.get(file).copied()
        };
        let mut len = bytes.len() as u64;
        match fault {
            Some(Fault::FailFrom(from)) if end > from => {
                return Err(SourceError::Io {
                    at: self.describe(),
                    file: file.to_owned(),
                    source: io::Error::other(format!("told to fail from byte {from} on")),
                });
            }
            Some(Fault::CutAt(cut)) => len = len.min(cut),
            Some(Fault::Slow(wait)) => std::thread::sleep(wait),
            Some(Fault::FailFrom(_)) | None => {}
        }
        if end > len {
            return Err(SourceError::truncated(self.describe(), file, end, len));
        }
        // `end` is at most the length of a slice, so both fit.
        into.copy_from_slice(&bytes[offset as usize..end as usize]);
        Ok(())
    }
}
