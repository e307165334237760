//! Files of other projects as files of safetensors.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, json};

use super::{
    found::{FoundTensor, ShownFile},
    near::{NearBytes, read_near},
};
use crate::source::{
    Access, FetchTotals, Probe, Source, SourceError, SourceExt, SourceHints, checkpoint::INDEX,
};

/// Reads bytes of a file of the source from an offset on.
type ReadFile<'a> = &'a dyn Fn(&str, u64, &mut [u8]) -> Result<(), SourceError>;

/// A source some of whose files are shown as files of safetensors. They keep their names, and all other files are as they are.
#[derive(Debug)]
pub(super) struct FilesView {
    source: Arc<dyn Source>,
    files: Vec<ShownFile>,
    /// The list of the tensors of several files, where the source has none.
    index: Option<Vec<u8>>,
    /// The name that the source has for its list.
    listed: Option<&'static str>,
}

impl FilesView {
    /// Shows these files; of several, `listed` names the list that says which of them has a tensor, if there is one.
    pub(super) fn new(
        source: Arc<dyn Source>,
        files: Vec<(String, Vec<FoundTensor>)>,
        listed: Option<&'static str>,
    ) -> Self {
        let index = (files.len() > 1 && listed.is_none()).then(|| {
            let placed = files.iter().flat_map(|(name, tensors)| {
                let tensors = tensors.iter();
                tensors.map(move |tensor| (tensor.name.clone(), json!(name)))
            });
            let weight_map: Map<_, _> = placed.collect();
            json!({ "weight_map": weight_map }).to_string().into_bytes()
        });
        let files = files.into_iter();
        let files = files.map(|(name, tensors)| ShownFile::new(&name, tensors));
        Self {
            source,
            files: files.collect(),
            index,
            listed,
        }
    }

    fn shown(&self, file: &str) -> Option<&ShownFile> {
        self.files.iter().find(|shown| shown.name == file)
    }

    /// The bytes of a file that is in memory, or the name that the source has for it.
    fn other<'a>(&'a self, file: &'a str) -> Result<&'a [u8], &'a str> {
        match (file, &self.index, self.listed) {
            (INDEX, Some(index), _) => Ok(index),
            (INDEX, None, Some(listed)) => Err(listed),
            _ => Err(file),
        }
    }

    /// Fills `into` by `read`, which reads a file of the source.
    fn fill(
        &self,
        file: &str,
        offset: u64,
        into: &mut [u8],
        read: ReadFile<'_>,
    ) -> Result<(), SourceError> {
        let end = offset.saturating_add(into.len() as u64);
        let inside = |len| match end > len {
            true => Err(SourceError::truncated(self.describe(), file, end, len)),
            false => Ok(()),
        };
        let Some(shown) = self.shown(file) else {
            return match self.other(file) {
                Ok(bytes) => {
                    inside(bytes.len() as u64)?;
                    into.copy_from_slice(&bytes[offset as usize..end as usize]);
                    Ok(())
                }
                Err(name) => read(name, offset, into),
            };
        };
        inside(shown.len())?;
        let head = &shown.head;
        // Both are below the length of the file.
        let start = (offset as usize).min(head.len());
        let in_head = (end as usize).min(head.len()) - start;
        let (first, rest) = into.split_at_mut(in_head);
        first.copy_from_slice(&head[start..start + in_head]);
        let mut at = offset + in_head as u64;
        let read = |at: u64, into: &mut [u8]| read(file, at, into);
        let (mut near, mut done) = (Vec::new(), 0);
        for span in shown.from(at) {
            if done == rest.len() {
                break;
            }
            let here = (rest.len() - done).min((span.range.end - at) as usize);
            let (within, to) = (at - span.range.start, done..done + here);
            match &span.strided {
                None => near.push(NearBytes {
                    from: span.from + within,
                    to,
                }),
                Some(strided) => strided.fill(span.from, within, &mut rest[to], &read)?,
            }
            at += here as u64;
            done += here;
        }
        read_near(&near, rest, &read)
    }
}

impl Source for FilesView {
    fn describe(&self) -> String {
        self.source.describe()
    }

    fn size(&self, file: &str) -> Result<u64, SourceError> {
        match (self.shown(file), self.other(file)) {
            (Some(shown), _) => Ok(shown.len()),
            (None, Ok(bytes)) => Ok(bytes.len() as u64),
            (None, Err(name)) => self.source.size(name),
        }
    }

    fn read_at(&self, file: &str, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        self.fill(file, offset, into, &|file, at, into| {
            self.source.read_at(file, at, into)
        })
    }

    fn hints(&self) -> Option<&dyn SourceHints> {
        Some(self)
    }
}

impl SourceHints for FilesView {
    fn peek(&self, file: &str, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        self.fill(file, offset, into, &|file, at, into| {
            self.source.peek(file, at, into)
        })
    }

    fn share(
        &self,
        file: &str,
        offset: u64,
        len: usize,
        access: Access,
    ) -> Result<Option<Bytes>, SourceError> {
        let Some(shown) = self.shown(file) else {
            return Ok(None);
        };
        let end = offset.saturating_add(len as u64);
        match shown.from(offset).first() {
            Some(span)
                if span.strided.is_none()
                    && span.range.start <= offset
                    && end <= span.range.end =>
            {
                let at = span.from + (offset - span.range.start);
                self.source.share(file, at, len, access)
            }
            _ => Ok(None),
        }
    }

    fn version(&self) -> Result<Option<String>, SourceError> {
        self.source.version()
    }

    fn probe(&self) -> Option<Probe> {
        self.source.probe()
    }

    fn weights_file(&self) -> Option<&str> {
        match (&self.files[..], self.listed) {
            ([file], None) => Some(&file.name),
            _ => None,
        }
    }

    fn list(&self) -> Result<Option<Vec<String>>, SourceError> {
        self.source.list()
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
