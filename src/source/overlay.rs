//! A source with files that are nowhere: values that are all alike, in place of tensors that a new block begins with.

use std::sync::Arc;

use bytes::Bytes;
use firebox_kernels::arith::float::DType;

use super::{Access, FetchTotals, Probe, Source, SourceError, SourceExt, SourceHints};

/// The file whose bytes are all zero: zeros of every type.
pub(crate) const ZEROS: &str = "(zeros)";

/// Files of ones, by type, and the bytes of a one.
const ONES: [(DType, &str, &[u8]); 3] = [
    (DType::F32, "(ones in f32)", &1_f32.to_le_bytes()),
    (DType::F16, "(ones in f16)", &0x3c00_u16.to_le_bytes()),
    (DType::Bf16, "(ones in bf16)", &0x3f80_u16.to_le_bytes()),
];

/// The file of ones of a type.
pub(crate) fn ones(dtype: DType) -> &'static str {
    let of_type = |(known, ..): &&(DType, &str, &[u8])| *known == dtype;
    ONES.iter().find(of_type).map_or(ZEROS, |(_, file, _)| file)
}

/// Whether a file is one of those that are nowhere.
pub(crate) fn is_made_up(file: &str) -> bool {
    value(file).is_some()
}

/// The bytes that a file repeats.
fn value(file: &str) -> Option<&'static [u8]> {
    match file {
        ZEROS => Some(&[0]),
        _ => ONES
            .iter()
            .find(|(_, ones, _)| *ones == file)
            .map(|(.., value)| *value),
    }
}

/// A source, and beside its files those that repeat a value without end. Files can be hidden.
#[derive(Debug)]
pub(crate) struct Overlay {
    source: Arc<dyn Source>,
    /// A file that counts as absent.
    hidden: Option<&'static str>,
}

impl Overlay {
    /// The files of `source` and those of values that are all alike.
    pub(crate) fn new(source: Arc<dyn Source>) -> Self {
        Self {
            source,
            hidden: None,
        }
    }

    /// The files of `source` but one.
    pub(crate) fn without(source: Arc<dyn Source>, hidden: &'static str) -> Self {
        Self {
            source,
            hidden: Some(hidden),
        }
    }

    /// Fills `into` where the file is one of repeated values. Refuses the hidden file.
    fn fill(&self, file: &str, offset: u64, into: &mut [u8]) -> Result<bool, SourceError> {
        if self.hidden == Some(file) {
            return Err(self.not_found(file));
        }
        let Some(value) = value(file) else {
            return Ok(false);
        };
        let first = (offset % value.len() as u64) as usize;
        let repeated = value.iter().cycle().skip(first);
        into.iter_mut()
            .zip(repeated)
            .for_each(|(byte, value)| *byte = *value);
        Ok(true)
    }

    fn not_found(&self, file: &str) -> SourceError {
        SourceError::NotFound {
            at: self.describe(),
            file: file.to_owned(),
        }
    }
}

impl Source for Overlay {
    fn describe(&self) -> String {
        self.source.describe()
    }

    fn size(&self, file: &str) -> Result<u64, SourceError> {
        match value(file) {
            _ if self.hidden == Some(file) => Err(self.not_found(file)),
            // Without end.
            Some(_) => Ok(u64::MAX),
            None => self.source.size(file),
        }
    }

    fn read_at(&self, file: &str, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        match self.fill(file, offset, into)? {
            true => Ok(()),
            false => self.source.read_at(file, offset, into),
        }
    }

    fn hints(&self) -> Option<&dyn SourceHints> {
        Some(self)
    }
}

impl SourceHints for Overlay {
    fn peek(&self, file: &str, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        match self.fill(file, offset, into)? {
            true => Ok(()),
            false => self.source.peek(file, offset, into),
        }
    }

    fn share(
        &self,
        file: &str,
        offset: u64,
        len: usize,
        access: Access,
    ) -> Result<Option<Bytes>, SourceError> {
        match is_made_up(file) {
            true => Ok(None),
            false => self.source.share(file, offset, len, access),
        }
    }

    fn version(&self) -> Result<Option<String>, SourceError> {
        self.source.version()
    }

    fn probe(&self) -> Option<Probe> {
        self.source.probe()
    }

    fn weights_file(&self) -> Option<&str> {
        self.source.weights_file()
    }

    fn list(&self) -> Result<Option<Vec<String>>, SourceError> {
        let mut files = self.source.list()?;
        if let Some(files) = &mut files {
            files.retain(|file| self.hidden != Some(file));
        }
        Ok(files)
    }

    fn unchanged(&self) -> Result<(), SourceError> {
        self.source.unchanged()
    }

    fn concurrency(&self) -> usize {
        self.source.concurrency()
    }

    fn request_bytes(&self) -> Option<u64> {
        self.source.request_bytes()
    }

    fn fetched(&self) -> Option<FetchTotals> {
        self.source.fetched()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Memory;

    /// Reads that begin in the middle of a value go on with its second byte; a hidden file is neither listed nor read.
    #[test]
    fn values_repeat_from_any_byte_and_hidden_files_are_absent() {
        let inner = Memory::new().with("a", [7, 8, 9]);
        let inner: Arc<dyn Source> = Arc::new(inner);
        let all = Overlay::new(Arc::clone(&inner));
        let read = |file: &str, offset, len| {
            let mut into = vec![0xff; len];
            all.read_at(file, offset, &mut into).map(|()| into)
        };
        assert_eq!(read(ZEROS, 5, 3).expect("zeros"), [0, 0, 0]);
        assert_eq!(
            read(ones(DType::F32), 4, 4).expect("ones"),
            1_f32.to_le_bytes()
        );
        assert_eq!(
            read(ones(DType::Bf16), 1, 3).expect("ones"),
            [0x3f, 0x80, 0x3f]
        );
        assert_eq!(read("a", 1, 2).expect("the file"), [8, 9]);

        let some = Overlay::without(inner, "a");
        assert!(some.size("a").expect_err("hidden").is_absent());
        assert!(
            some.read_at("a", 0, &mut [0])
                .expect_err("hidden")
                .is_absent()
        );
    }
}
