//! A GGUF file as the files of a checkpoint.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    ContainerError,
    config::config,
    family::family,
    keys::Keys,
    layout::{GgufLayout, SpanChange, TensorSpan},
    read_bytes::ReadBytes,
    tokenizer,
};
use crate::{
    model::{Architecture, CausalLm},
    source::{
        Access, Fetched, Probe, Source, SourceError, SourceExt, SourceHints, StoredType,
        checkpoint::{CONFIG, SINGLE},
        gguf::{self, GgufHeader, GgufParsed, GgufType},
    },
};

/// The first bytes that are read of a file.
const FIRST_BYTES: u64 = 1 << 20;

/// What the frequencies of Llama 3 are divided by.
const DIVISORS: &str = "rope_freqs.weight";

/// A source that has one GGUF file, seen as `model.safetensors` and the small files beside it.
#[derive(Debug)]
pub(super) struct GgufView {
    source: Arc<dyn Source>,
    /// The file.
    file: String,
    /// Its other files, by their names.
    small: Vec<(&'static str, Vec<u8>)>,
    layout: GgufLayout,
}

impl GgufView {
    pub(super) fn open(source: Arc<dyn Source>, file: &str) -> Result<Self, ContainerError> {
        let label = format!("{}/{file}", source.describe());
        let file_len = source.size(file)?;
        let mut wanted = FIRST_BYTES.min(file_len);
        let mut header = loop {
            let mut first = vec![0; wanted as usize];
            source.peek(file, 0, &mut first)?;
            match gguf::parse(&label, &first, file_len)? {
                GgufParsed::Header(header) => break header,
                // Twice as much at least, so that a long header is not read again and again.
                GgufParsed::More(least) => wanted = least.max(2 * wanted).min(file_len),
            }
        };
        let divisors = divisors(&*source, file, &mut header)?;
        let keys = Keys::new(&label, &header)?;
        let family = family(&label, keys.architecture())?;
        let config = config(&keys, family, &header, divisors.as_deref())?;
        let spec = CausalLm::config(&config).map_err(|source| ContainerError::Config {
            file: label.clone(),
            source: Box::new(source),
        })?;
        let heads = ["num_attention_heads", "num_key_value_heads"];
        let heads = heads.map(|field| config[field].as_u64().unwrap_or_default() as usize);
        // Weights of an unknown tokenizer are weights all the same.
        let mut small = tokenizer::files(&keys).unwrap_or_else(|error| {
            tracing::warn!("{error}; the tokenizer is not read");
            Vec::new()
        });
        small.push((CONFIG, config.to_string().into_bytes()));
        let layout = GgufLayout::new(&label, &header.tensors, family, &spec, heads)?;
        Ok(Self {
            file: file.to_owned(),
            small,
            layout,
            source,
        })
    }

    /// The bytes of a file that is in memory as a whole.
    fn small(&self, file: &str) -> Result<&[u8], SourceError> {
        let found = self.small.iter().find(|(name, _)| *name == file);
        match found {
            Some((_, bytes)) => Ok(bytes),
            None => Err(SourceError::NotFound {
                at: self.describe(),
                file: file.to_owned(),
            }),
        }
    }

    /// The spans from byte `offset` on.
    fn from(&self, offset: u64) -> &[TensorSpan] {
        let spans = &self.layout.spans;
        &spans[spans.partition_point(|span| span.range.end <= offset)..]
    }

    /// Fills `into` by `read`, which reads the container.
    fn fill(
        &self,
        file: &str,
        offset: u64,
        into: &mut [u8],
        read: ReadBytes<'_>,
    ) -> Result<(), SourceError> {
        let end = offset.saturating_add(into.len() as u64);
        let len = self.size(file)?;
        if end > len {
            return Err(SourceError::truncated(self.describe(), file, end, len));
        }
        let head = match file {
            SINGLE => &self.layout.head[..],
            _ => self.small(file)?,
        };
        // Both are below the length of the file.
        let start = (offset as usize).min(head.len());
        let in_head = (end as usize).min(head.len()) - start;
        let (first, mut rest) = into.split_at_mut(in_head);
        first.copy_from_slice(&head[start..start + in_head]);
        let mut at = offset + in_head as u64;
        for span in self.from(at) {
            if rest.is_empty() {
                break;
            }
            let here = rest.len().min((span.range.end - at) as usize);
            let (some, after) = rest.split_at_mut(here);
            let within = at - span.range.start;
            match span.change {
                SpanChange::None => read(span.from + within, some)?,
                SpanChange::LessOne => less_one(span.from, within as usize, some, read)?,
                SpanChange::Pairs { head, row } => {
                    pairs(span.from, [head, row], within as usize, some, read)?;
                }
            }
            at += here as u64;
            rest = after;
        }
        Ok(())
    }
}

/// Fills `into` with the bytes from `within` on of the values in `f32` that begin at byte `from`, less one.
fn less_one(
    from: u64,
    within: usize,
    into: &mut [u8],
    read: ReadBytes<'_>,
) -> Result<(), SourceError> {
    const SIZE: usize = size_of::<f32>();
    let start = within / SIZE * SIZE;
    let mut whole = vec![0; (within + into.len()).next_multiple_of(SIZE) - start];
    read(from + start as u64, &mut whole)?;
    for value in whole.as_chunks_mut().0 {
        *value = (f32::from_le_bytes(*value) - 1.0).to_le_bytes();
    }
    into.copy_from_slice(&whole[within - start..][..into.len()]);
    Ok(())
}

/// Fills `into` with the bytes from `within` on of a tensor whose heads have `head` rows of `row` bytes as pairs, and which begins
/// at byte `from`. Heads are read whole: their rows are all over them.
fn pairs(
    from: u64,
    [head, row]: [usize; 2],
    within: usize,
    into: &mut [u8],
    read: ReadBytes<'_>,
) -> Result<(), SourceError> {
    let mut paired = vec![0; head * row];
    let (mut at, mut rest) = (within, into);
    let mut present = None;
    while !rest.is_empty() {
        let (nth, start) = (at / (head * row), at % (head * row));
        if present != Some(nth) {
            read(from + (nth * head * row) as u64, &mut paired)?;
            present = Some(nth);
        }
        let (r, column) = (start / row, start % row);
        let stored = if r < head / 2 {
            2 * r
        } else {
            2 * (r - head / 2) + 1
        };
        let here = rest.len().min(row - column);
        let (some, after) = rest.split_at_mut(here);
        some.copy_from_slice(&paired[stored * row + column..][..here]);
        at += here;
        rest = after;
    }
    Ok(())
}

/// Takes the divisors of rotary frequencies out of a header, and reads them.
fn divisors(
    source: &dyn Source,
    file: &str,
    header: &mut GgufHeader,
) -> Result<Option<Vec<f32>>, SourceError> {
    /// More than the features of a head.
    const BYTES_MAX: u64 = 1 << 16;
    let found = header.tensors.iter().position(|tensor| {
        let small = tensor.range.end - tensor.range.start <= BYTES_MAX;
        tensor.name == DIVISORS && tensor.kind == GgufType::Plain(StoredType::F32) && small
    });
    let Some(found) = found else {
        return Ok(None);
    };
    let range = header.tensors.remove(found).range;
    let mut bytes = vec![0; (range.end - range.start) as usize];
    source.peek(file, range.start, &mut bytes)?;
    let (values, _) = bytes.as_chunks();
    Ok(Some(
        values
            .iter()
            .map(|value| f32::from_le_bytes(*value))
            .collect(),
    ))
}

impl Source for GgufView {
    fn describe(&self) -> String {
        format!("{}/{}", self.source.describe(), self.file)
    }

    fn size(&self, file: &str) -> Result<u64, SourceError> {
        match file {
            SINGLE => Ok(self.layout.len()),
            _ => self.small(file).map(|bytes| bytes.len() as u64),
        }
    }

    fn read_at(&self, file: &str, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        self.fill(file, offset, into, &|at, into| {
            self.source.read_at(&self.file, at, into)
        })
    }

    fn hints(&self) -> Option<&dyn SourceHints> {
        Some(self)
    }
}

impl SourceHints for GgufView {
    fn peek(&self, file: &str, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        self.fill(file, offset, into, &|at, into| {
            self.source.peek(&self.file, at, into)
        })
    }

    fn share(
        &self,
        file: &str,
        offset: u64,
        len: usize,
        access: Access,
    ) -> Result<Option<Bytes>, SourceError> {
        let end = offset.saturating_add(len as u64);
        let span = match file {
            SINGLE => self.from(offset).first(),
            _ => None,
        };
        match span {
            Some(span)
                if span.change == SpanChange::None
                    && span.range.start <= offset
                    && end <= span.range.end =>
            {
                let at = span.from + (offset - span.range.start);
                self.source.share(&self.file, at, len, access)
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
        Some(SINGLE)
    }

    fn list(&self) -> Result<Option<Vec<String>>, SourceError> {
        let small = self.small.iter().map(|(name, _)| *name);
        let mut names: Vec<_> = small.chain([SINGLE]).map(str::to_owned).collect();
        names.sort();
        Ok(Some(names))
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

    fn fetched(&self) -> Option<Fetched> {
        self.source.fetched()
    }
}
