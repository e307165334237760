//! The tensors of a file of another project, and a file of safetensors that is nowhere and has the same.

use core::ops::Range;

use serde_json::{Map, Value, json};

use super::strided::Strided;
use crate::source::{Source, SourceError, SourceExt, StoredType};

/// What was found in a file.
#[derive(Debug, Default)]
pub(super) struct FoundFile {
    pub(super) tensors: Vec<FoundTensor>,
    /// What a user should know of the file, a sentence each.
    pub(super) notes: Vec<String>,
}

/// A tensor of a file.
#[derive(Debug, Clone)]
pub(super) struct FoundTensor {
    pub(super) name: String,
    pub(super) dtype: StoredType,
    pub(super) shape: Vec<usize>,
    /// The byte of its first value.
    pub(super) from: u64,
    /// How its values lie from there on, where that is not one after another in little-endian order.
    pub(super) strided: Option<Strided>,
}

impl FoundTensor {
    /// Bytes of its values. The readers of files compared them with the file's length.
    pub(super) fn bytes(&self) -> u64 {
        let sides = self.shape.iter();
        let values = sides.fold(1, |values: u64, side| values.saturating_mul(*side as u64));
        values.saturating_mul(self.dtype.bits()) / 8
    }
}

/// A file of safetensors that is nowhere.
#[derive(Debug)]
pub(super) struct ShownFile {
    /// Its name: that of the file which has the bytes.
    pub(super) name: String,
    /// What it begins with: the length of its header, and that.
    pub(super) head: Vec<u8>,
    /// By their first bytes, without gaps after the head.
    pub(super) spans: Vec<ShownSpan>,
}

/// The bytes of a tensor in such a file, and where they are.
#[derive(Debug)]
pub(super) struct ShownSpan {
    pub(super) range: Range<u64>,
    pub(super) from: u64,
    pub(super) strided: Option<Strided>,
}

impl ShownFile {
    /// A file of these tensors, by their places.
    pub(super) fn new(name: &str, mut tensors: Vec<FoundTensor>) -> Self {
        tensors.sort_by_key(|tensor| tensor.from);
        let mut header = Map::new();
        let mut spans = Vec::with_capacity(tensors.len());
        let mut next: u64 = 0;
        for tensor in tensors {
            let end = next.saturating_add(tensor.bytes());
            let entry = json!({
                "dtype": tensor.dtype.name(),
                "shape": tensor.shape,
                "data_offsets": [next, end],
            });
            header.insert(tensor.name, entry);
            spans.push(ShownSpan {
                range: next..end,
                from: tensor.from,
                strided: tensor.strided,
            });
            next = end;
        }
        let header = Value::Object(header).to_string();
        let mut head = (header.len() as u64).to_le_bytes().to_vec();
        head.extend(header.into_bytes());
        for span in &mut spans {
            let Range { start, end } = span.range;
            let by = head.len() as u64;
            span.range = start.saturating_add(by)..end.saturating_add(by);
        }
        let name = name.to_owned();
        Self { name, head, spans }
    }

    /// Bytes of the file.
    pub(super) fn len(&self) -> u64 {
        let last = self.spans.last();
        last.map_or(self.head.len() as u64, |last| last.range.end)
    }

    /// The spans from byte `offset` on.
    pub(super) fn from(&self, offset: u64) -> &[ShownSpan] {
        &self.spans[self.spans.partition_point(|span| span.range.end <= offset)..]
    }
}

/// A few bytes at each of many places of a file: as many reads at once as the source wants.
pub(super) fn peek_all(
    source: &dyn Source,
    file: &str,
    places: &[(u64, usize)],
) -> Result<Vec<Vec<u8>>, SourceError> {
    let peek = |(at, len): &(u64, usize)| {
        let mut into = vec![0; *len];
        source.peek(file, *at, &mut into).map(|()| into)
    };
    let threads = source.concurrency().clamp(1, places.len().max(1));
    let shares = places.chunks(places.len().div_ceil(threads).max(1));
    std::thread::scope(|scope| {
        let threads: Vec<_> = shares
            .map(|share| scope.spawn(move || share.iter().map(peek).collect::<Result<Vec<_>, _>>()))
            .collect();
        let mut all = Vec::with_capacity(places.len());
        for thread in threads {
            match thread.join() {
                Ok(read) => all.extend(read?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(all)
    })
}
