//! A source that writes down which bytes are read of it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use serde::Serialize;

use crate::source::{
    Access, Bytes, FetchTotals, Probe, Source, SourceError, SourceExt, SourceHints,
};

/// Bytes of a file that were read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReadRange {
    /// The file.
    pub file: String,
    /// The first byte.
    pub first: u64,
    /// The last byte.
    pub last: u64,
}

/// Another source, and the bytes that were read of it.
#[derive(Debug)]
pub(crate) struct ReadLog<'s> {
    inner: &'s dyn Source,
    /// The ranges of each file that were read, by their first byte; no two of them touch.
    files: Mutex<BTreeMap<String, BTreeMap<u64, u64>>>,
}

impl<'s> ReadLog<'s> {
    pub(crate) fn new(inner: &'s dyn Source) -> Self {
        let files = Mutex::default();
        Self { inner, files }
    }

    /// The bytes that were read so far, by file, in order.
    pub(crate) fn ranges(&self) -> Vec<ReadRange> {
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let ranges = files.iter().flat_map(|(file, ranges)| {
            ranges.iter().map(|(start, end)| ReadRange {
                file: file.clone(),
                first: *start,
                last: end - 1,
            })
        });
        ranges.collect()
    }

    fn note(&self, file: &str, offset: u64, len: usize) {
        if len == 0 {
            return;
        }
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let ranges = match files.get_mut(file) {
            Some(ranges) => ranges,
            None => files.entry(file.to_owned()).or_default(),
        };
        let (mut start, mut end) = (offset, offset + len as u64);
        // Ranges that touch this one become part of it.
        while let Some((first, last)) = ranges.range(..=end).next_back() {
            let (first, last) = (*first, *last);
            if last < start {
                break;
            }
            ranges.remove(&first);
            (start, end) = (start.min(first), end.max(last));
        }
        ranges.insert(start, end);
    }
}

impl Source for ReadLog<'_> {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn size(&self, file: &str) -> Result<u64, SourceError> {
        self.inner.size(file)
    }

    fn read_at(&self, file: &str, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        self.inner.read_at(file, offset, into)?;
        self.note(file, offset, into.len());
        Ok(())
    }

    fn hints(&self) -> Option<&dyn SourceHints> {
        self.inner.hints().map(|_| self as &dyn SourceHints)
    }
}

impl SourceHints for ReadLog<'_> {
    fn peek(&self, file: &str, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        self.inner.peek(file, offset, into)?;
        self.note(file, offset, into.len());
        Ok(())
    }

    fn share(
        &self,
        file: &str,
        offset: u64,
        len: usize,
        access: Access,
    ) -> Result<Option<Bytes>, SourceError> {
        let shared = self.inner.share(file, offset, len, access)?;
        if shared.is_some() {
            self.note(file, offset, len);
        }
        Ok(shared)
    }

    fn version(&self) -> Result<Option<String>, SourceError> {
        self.inner.version()
    }

    fn probe(&self) -> Option<Probe> {
        self.inner.probe()
    }

    fn weights_file(&self) -> Option<&str> {
        self.inner.weights_file()
    }

    fn list(&self) -> Result<Option<Vec<String>>, SourceError> {
        self.inner.list()
    }

    fn unchanged(&self) -> Result<(), SourceError> {
        self.inner.unchanged()
    }

    fn concurrency(&self) -> usize {
        self.inner.concurrency()
    }

    fn request_bytes(&self) -> Option<u64> {
        self.inner.request_bytes()
    }

    fn fetched(&self) -> Option<FetchTotals> {
        self.inner.fetched()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Memory;

    /// Would catch ranges that touch and stay apart, and one that swallows another by halves.
    #[test]
    fn what_was_read_is_merged() {
        let memory = Memory::new().with("a", [0; 100]);
        let log = ReadLog::new(&memory);
        let read = |offset, len| log.read_at("a", offset, &mut vec![0; len]).expect("reads");
        let ranges = || {
            let ranges = log.ranges().into_iter();
            ranges
                .map(|range| [range.first, range.last])
                .collect::<Vec<_>>()
        };
        read(10, 10);
        read(40, 10);
        read(0, 0);
        assert_eq!(ranges(), [[10, 19], [40, 49]]);
        read(20, 5);
        read(30, 2);
        assert_eq!(ranges(), [[10, 24], [30, 31], [40, 49]]);
        read(24, 17);
        assert_eq!(ranges(), [[10, 49]]);
        read(0, 100);
        read(12, 3);
        assert_eq!(ranges(), [[0, 99]]);
    }
}
