//! A GGUF file as the files of a checkpoint.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    ContainerError,
    config::{bare, config},
    family::family,
    keys::Keys,
    layout::{GgufLayout, TensorSpan},
    order::RowOrder,
    parts::{GgufParts, ReadContainer},
    read_bytes::ReadBytes,
    rotary::Divisors,
    shown::{ReadModel, SpanChange},
    tokenizer::{self, TokenizerFile},
};
use crate::{
    model::{Architecture, CausalLm},
    source::{
        Access, FetchTotals, Probe, Source, SourceError, SourceExt, SourceHints,
        checkpoint::{CONFIG, SINGLE},
    },
};

/// A source that has one GGUF file, seen as `model.safetensors` and the small files beside it.
#[derive(Debug)]
pub(super) struct GgufView {
    source: Arc<dyn Source>,
    /// The files, of which most models have one.
    files: Vec<String>,
    /// Its other files, by their names.
    small: Vec<(&'static str, Vec<u8>)>,
    layout: GgufLayout,
}

impl GgufView {
    pub(super) fn open(source: Arc<dyn Source>, file: &str) -> Result<Self, ContainerError> {
        let label = format!("{}/{file}", source.describe());
        let mut parts = GgufParts::open(&*source, file)?;
        let (model, small) = model(&label, &*source, &mut parts)?;
        let layout = GgufLayout::new(&label, &parts, model.as_ref())?;
        Ok(Self {
            files: parts.files,
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
        read: ReadContainer<'_>,
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
            let all = read;
            let read: ReadBytes<'_> = &|at, into| all(span.part, at, into);
            match &span.change {
                SpanChange::Unfolded(unfolded) => unfolded.fill(within as usize, some, all)?,
                SpanChange::Columns(columns) => {
                    columns.fill(span.from, within as usize, some, read)?;
                }
                SpanChange::Turned(strided) => strided.fill(span.from, within, some, read)?,
                SpanChange::Logarithms { count, order } => {
                    let shown = logarithms(span.from, *count, *order, read)?;
                    some.copy_from_slice(&shown[within as usize..][..here]);
                }
                SpanChange::None => read(span.from + within, some)?,
                SpanChange::LessOne => less_one(span.from, within as usize, some, read)?,
                SpanChange::Rows {
                    order: RowOrder::Pairs { head },
                    row,
                } => pairs(span.from, [*head, *row], within as usize, some, read)?,
                SpanChange::Rows { order, row } => {
                    runs(span.from, *order, *row, within as usize, some, read)?;
                }
            }
            at += here as u64;
            rest = after;
        }
        Ok(())
    }
}

/// The model of a file, where its architecture is known, and its small files.
fn model(
    label: &str,
    source: &dyn Source,
    parts: &mut GgufParts,
) -> Result<(Option<ReadModel>, Vec<TokenizerFile>), ContainerError> {
    let keys = Keys::new(label, &parts.header)?;
    let has_experts = keys.number("expert_count")?.is_some_and(|count| count > 0);
    let Some(family) = family(keys.architecture(), has_experts) else {
        let config = bare(keys.architecture(), &parts.header);
        return Ok((None, vec![(CONFIG, config.to_string().into_bytes())]));
    };
    let divisors = Divisors::take(source, parts)?;
    let keys = Keys::new(label, &parts.header)?;
    let config = config(&keys, family, &parts.header, &divisors)?;
    let spec = CausalLm::config(&config).map_err(|source| ContainerError::Config {
        file: label.to_owned(),
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
    let model = ReadModel {
        family,
        spec,
        heads,
    };
    Ok((Some(model), small))
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

/// The logarithms of `count` values in `f32` that are below 0, and begin at byte `from`.
fn logarithms(
    from: u64,
    count: usize,
    order: Option<RowOrder>,
    read: ReadBytes<'_>,
) -> Result<Vec<u8>, SourceError> {
    let mut whole = vec![0; count * size_of::<f32>()];
    read(from, &mut whole)?;
    let (values, _) = whole.as_chunks();
    let places = (0..count).map(|nth| order.map_or(nth, |order| order.stored(nth)));
    let shown = places.flat_map(|place| {
        let value = f32::from_le_bytes(values[place]);
        (-value).ln().to_le_bytes()
    });
    Ok(shown.collect())
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
        let stored = RowOrder::Pairs { head }.stored(r);
        let here = rest.len().min(row - column);
        let (some, after) = rest.split_at_mut(here);
        some.copy_from_slice(&paired[stored * row + column..][..here]);
        at += here;
        rest = after;
    }
    Ok(())
}

/// Fills `into` with the bytes from `within` on of a tensor whose runs of rows, of `row` bytes, are in another order, and which
/// begins at byte `from`.
fn runs(
    from: u64,
    order: RowOrder,
    row: usize,
    within: usize,
    into: &mut [u8],
    read: ReadBytes<'_>,
) -> Result<(), SourceError> {
    let run = order.run() * row;
    let (mut at, mut rest) = (within, into);
    while !rest.is_empty() {
        let (nth, start) = (at / run, at % run);
        let here = rest.len().min(run - start);
        let (some, after) = rest.split_at_mut(here);
        let stored = order.stored(nth * order.run());
        read(from + (stored * row + start) as u64, some)?;
        at += here;
        rest = after;
    }
    Ok(())
}

impl Source for GgufView {
    fn describe(&self) -> String {
        format!("{}/{}", self.source.describe(), self.files[0])
    }

    fn size(&self, file: &str) -> Result<u64, SourceError> {
        match file {
            SINGLE => Ok(self.layout.len()),
            _ => self.small(file).map(|bytes| bytes.len() as u64),
        }
    }

    fn read_at(&self, file: &str, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        self.fill(file, offset, into, &|part, at, into| {
            self.source.read_at(&self.files[part], at, into)
        })
    }

    fn hints(&self) -> Option<&dyn SourceHints> {
        Some(self)
    }
}

impl SourceHints for GgufView {
    fn peek(&self, file: &str, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        self.fill(file, offset, into, &|part, at, into| {
            self.source.peek(&self.files[part], at, into)
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
                self.source.share(&self.files[span.part], at, len, access)
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

    fn fetched(&self) -> Option<FetchTotals> {
        self.source.fetched()
    }
}
