//! A source that counts what is read of it, and saves of it that can be interrupted.

use std::{
    ops::Range,
    path::Path,
    sync::{Arc, Mutex},
};

use firebox::{
    Cpu, Error, LoadConfig, LoadRequest, Loader,
    config::SaveConfig,
    pipeline::{Event, Flow},
    report::Saved,
    source::{
        Access, Bytes, Checkpoint, FetchTotals, Probe, Source, SourceError, SourceExt, SourceHints,
    },
};

use crate::tiny::{Tiny, tiny_entries};

/// Counts reads; peeks, which are for a few bytes, are not counted.
#[derive(Debug)]
pub(crate) struct Watched {
    inner: Box<dyn Source>,
    reads: Mutex<Vec<(String, Range<u64>)>>,
}

impl Watched {
    pub(crate) fn new(inner: impl Source + 'static) -> Arc<Self> {
        let (inner, reads) = (Box::new(inner), Mutex::default());
        Arc::new(Self { inner, reads })
    }

    /// Of the tiny model.
    pub(crate) fn tiny() -> Arc<Self> {
        Self::new(crate::tiny::checkpoint(&tiny_entries()))
    }

    /// Tensors of which bytes were read, in the order of the file.
    pub(crate) fn tensors_read(self: &Arc<Self>) -> Vec<String> {
        let reads = self.reads.lock().expect("no panic").clone();
        let checkpoint = Checkpoint::open(Arc::clone(self) as Arc<dyn Source>);
        let checkpoint = checkpoint.expect("a checkpoint");
        let was_read = |file: &str, range: &Range<u64>| {
            let mut reads = reads.iter();
            reads.any(|(of, read)| of == file && read.start < range.end && range.start < read.end)
        };
        let tensors = checkpoint.catalog().iter();
        tensors
            .filter(|tensor| was_read(&tensor.file, &tensor.range))
            .map(|tensor| tensor.name.to_string())
            .collect()
    }

    pub(crate) fn forget(&self) {
        self.reads.lock().expect("no panic").clear();
    }
}

impl Source for Watched {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn size(&self, file: &str) -> Result<u64, SourceError> {
        self.inner.size(file)
    }

    fn read_at(&self, file: &str, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        let read = offset..offset + into.len() as u64;
        let mut reads = self.reads.lock().expect("no panic");
        reads.push((file.to_owned(), read));
        drop(reads);
        self.inner.read_at(file, offset, into)
    }

    fn hints(&self) -> Option<&dyn SourceHints> {
        Some(self)
    }
}

/// Every byte but those of headers is to be seen: nothing is shared.
impl SourceHints for Watched {
    fn peek(&self, file: &str, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        self.inner.peek(file, offset, into)
    }

    fn version(&self) -> Result<Option<String>, SourceError> {
        Ok(None)
    }

    fn share(&self, _: &str, _: u64, _: usize, _: Access) -> Result<Option<Bytes>, SourceError> {
        Ok(None)
    }

    fn probe(&self) -> Option<Probe> {
        None
    }

    fn weights_file(&self) -> Option<&str> {
        None
    }

    fn list(&self) -> Result<Option<Vec<String>>, SourceError> {
        self.inner.list()
    }

    fn unchanged(&self) -> Result<(), SourceError> {
        self.inner.unchanged()
    }

    fn concurrency(&self) -> usize {
        2
    }

    fn request_bytes(&self) -> Option<u64> {
        None
    }

    fn fetched(&self) -> Option<FetchTotals> {
        None
    }
}

/// Two shards of the tiny model.
pub(crate) const SHARD_BYTES: u64 = 15_000;

pub(crate) fn to(folder: &Path) -> SaveConfig {
    SaveConfig::new(folder).shard_bytes(SHARD_BYTES)
}

pub(crate) fn config(source: Arc<dyn Source>, quant: &str) -> LoadRequest {
    LoadConfig::default()
        .quant(quant.parse().expect("a spec"))
        .source(source)
}

pub(crate) fn save(config: impl Into<LoadRequest>, to: &SaveConfig) -> Result<Saved, Error> {
    Loader::<Cpu>::new(config)?.save::<Tiny>(to)
}

/// Cancels at the `nth` event that `is` meant, counted from 0.
pub(crate) fn cancel(
    config: impl Into<LoadRequest>,
    nth: usize,
    is: fn(&Event<'_>) -> bool,
) -> LoadRequest {
    let seen = Mutex::new(0);
    config.into().observer(move |event: &Event<'_>| {
        let mut seen = seen.lock().expect("no panic");
        if !is(event) {
            return Flow::Continue;
        }
        *seen += 1;
        if *seen > nth {
            Flow::Cancel
        } else {
            Flow::Continue
        }
    })
}
