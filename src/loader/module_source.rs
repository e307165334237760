//! A module as a source: its values are bytes of one more file beside those of its checkpoint.

use core::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use firebox_kernels::{arith::float::DType, format::Packed};

use crate::{
    model::SlotValues,
    source::{Access, Bytes, FetchTotals, Probe, Source, SourceError, SourceExt, SourceHints},
};

/// The file that the values of the module are in.
pub(super) const FILE: &str = "(module)";

/// The tensors of a module, and the files of its checkpoint.
#[derive(Debug)]
pub(super) struct ModuleSource {
    inner: Arc<dyn Source>,
    /// In the order of their bytes.
    tensors: Vec<ModuleTensor>,
    /// The tensor that was read last, and its bytes: the next read is of the same one.
    last: Mutex<Option<(usize, Arc<Vec<u8>>)>>,
}

/// A tensor of a module.
#[derive(Debug)]
pub(super) struct ModuleTensor {
    /// Its bytes in [`FILE`].
    pub(super) range: Range<u64>,
    pub(super) made: Made,
}

/// What a tensor is made of.
#[derive(Debug)]
pub(super) enum Made {
    /// Values in `float`, a matrix of `cols` columns.
    Values {
        float: DType,
        cols: usize,
        parts: Vec<ValuesPart>,
    },
    /// The words of packed matrices, one after another.
    Words(Vec<SlotValues>),
    /// Their scales.
    Scales(Vec<SlotValues>),
}

/// Values of one slot that are rows of a tensor.
#[derive(Debug)]
pub(super) struct ValuesPart {
    pub(super) held: SlotValues,
    /// The first of the values of the slot.
    pub(super) first: usize,
    /// The rows of the tensor.
    pub(super) rows: Range<usize>,
    /// Whether these rows are columns of the slot.
    pub(super) transposed: bool,
}

impl ModuleSource {
    pub(super) fn new(inner: Arc<dyn Source>, tensors: Vec<ModuleTensor>) -> Self {
        Self {
            inner,
            tensors,
            last: Mutex::new(None),
        }
    }

    fn len(&self) -> u64 {
        self.tensors.last().map_or(0, |tensor| tensor.range.end)
    }

    fn bytes_of(&self, nth: usize) -> Arc<Vec<u8>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((known, bytes)) if *known == nth => Arc::clone(bytes),
            _ => {
                // The room of the old one is free before the new one takes its own.
                *last = None;
                let bytes = Arc::new(self.tensors[nth].made.bytes());
                *last = Some((nth, Arc::clone(&bytes)));
                bytes
            }
        }
    }
}

impl Made {
    fn bytes(&self) -> Vec<u8> {
        let joined = |held: &[SlotValues]| {
            let parts = held.iter().map(SlotValues::packed);
            let parts = parts.collect::<Option<Vec<Packed>>>();
            let joined = parts.and_then(|parts| Packed::join(&parts));
            joined.expect("packed matrices of one format, which follow one another")
        };
        let (float, cols, parts) = match self {
            Self::Words(held) => return bytemuck::cast_slice(&joined(held).words).to_vec(),
            Self::Scales(held) => return bytemuck::cast_slice(&joined(held).scales).to_vec(),
            Self::Values { float, cols, parts } => (*float, *cols, parts),
        };
        let len: usize = parts.iter().map(|part| part.rows.len() * cols).sum();
        let mut values = vec![0.0; len];
        for part in parts {
            part.put(cols, &mut values);
        }
        let mut bytes = vec![0; len * float.size()];
        float.narrow(&values, &mut bytes);
        bytes
    }
}

impl ValuesPart {
    /// Puts its rows into a tensor of `cols` columns.
    fn put(&self, cols: usize, tensor: &mut [f32]) {
        let of_slot = self.held.floats();
        let rows = self.rows.len();
        let of_slot = &of_slot[self.first..self.first + rows * cols];
        let tensor = &mut tensor[self.rows.start * cols..self.rows.end * cols];
        if !self.transposed {
            tensor.copy_from_slice(of_slot);
            return;
        }
        for (col, of_slot) in of_slot.chunks_exact(rows.max(1)).enumerate() {
            for (row, value) in of_slot.iter().enumerate() {
                tensor[row * cols + col] = *value;
            }
        }
    }
}

impl Source for ModuleSource {
    fn describe(&self) -> String {
        format!("a module of {}", self.inner.describe())
    }

    fn size(&self, file: &str) -> Result<u64, SourceError> {
        match file {
            FILE => Ok(self.len()),
            file => self.inner.size(file),
        }
    }

    fn read_at(&self, file: &str, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        if file != FILE {
            return self.inner.read_at(file, offset, into);
        }
        let (end, len) = (offset.saturating_add(into.len() as u64), self.len());
        if end > len {
            return Err(SourceError::truncated(self.describe(), file, end, len));
        }
        let (mut at, mut rest) = (offset, into);
        while !rest.is_empty() {
            let nth = self
                .tensors
                .partition_point(|tensor| tensor.range.end <= at);
            let range = &self.tensors[nth].range;
            let (here, others) = rest.split_at_mut(rest.len().min((range.end - at) as usize));
            let first = (at - range.start) as usize;
            here.copy_from_slice(&self.bytes_of(nth)[first..first + here.len()]);
            at += here.len() as u64;
            rest = others;
        }
        Ok(())
    }

    fn hints(&self) -> Option<&dyn SourceHints> {
        Some(self)
    }
}

impl SourceHints for ModuleSource {
    fn peek(&self, file: &str, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        match file {
            FILE => self.read_at(file, offset, into),
            file => self.inner.peek(file, offset, into),
        }
    }

    fn share(
        &self,
        file: &str,
        offset: u64,
        len: usize,
        access: Access,
    ) -> Result<Option<Bytes>, SourceError> {
        match file {
            FILE => Ok(None),
            file => self.inner.share(file, offset, len, access),
        }
    }

    /// None: the values of a module have no name.
    fn version(&self) -> Result<Option<String>, SourceError> {
        Ok(None)
    }

    fn probe(&self) -> Option<Probe> {
        self.inner.probe()
    }

    fn weights_file(&self) -> Option<&str> {
        self.inner.hints().and_then(SourceHints::weights_file)
    }

    fn list(&self) -> Result<Option<Vec<String>>, SourceError> {
        self.inner.list()
    }

    fn unchanged(&self) -> Result<(), SourceError> {
        self.inner.unchanged()
    }

    /// One, since a tensor is made whole: two readers would make each for themselves.
    fn concurrency(&self) -> usize {
        1
    }

    fn request_bytes(&self) -> Option<u64> {
        None
    }

    fn fetched(&self) -> Option<FetchTotals> {
        None
    }
}
