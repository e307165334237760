//! A GGUF file as the files of a checkpoint.

use core::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::{
    ContainerError,
    config::{bare, config},
    family::family,
    keys::Keys,
    layout::{GgufLayout, TensorSpan},
    near::{NearBytes, read_near},
    order::RowOrder,
    parts::{GgufParts, ReadContainer},
    read_bytes::ReadBytes,
    rotary::Divisors,
    rows::{pairs, runs, unpair, whole},
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
        let (first, rest) = into.split_at_mut(in_head);
        first.copy_from_slice(&head[start..start + in_head]);
        let mut at = offset + in_head as u64;
        // What is read with its neighbours, for each file of the container in turn, and changed in memory after that.
        let mut near: Vec<(usize, Vec<NearBytes>)> = Vec::new();
        let mut changes = Vec::new();
        let mut done = 0;
        for span in self.from(at) {
            if done == rest.len() {
                break;
            }
            let here = (rest.len() - done).min((span.range.end - at) as usize);
            let within = (at - span.range.start) as usize;
            let wanted = within..within + here;
            let to = |bytes: &Range<usize>| done + bytes.start - within..done + bytes.end - within;
            let all_parts = read;
            let read = |at: u64, into: &mut [u8]| all_parts(span.part, at, into);
            let some = &mut rest[to(&wanted)];
            // What is read with its neighbours comes in such units; all else is read by itself.
            let unit = match &span.change {
                SpanChange::None => Some(1),
                SpanChange::LessOne => Some(size_of::<f32>()),
                SpanChange::Rows {
                    order: RowOrder::Pairs { head },
                    row,
                } => Some(head * row),
                _ => None,
            };
            match &span.change {
                SpanChange::Unfolded(unfolded) => unfolded.fill(within, some, all_parts)?,
                SpanChange::Columns(columns) => columns.fill(span.from, within, some, &read)?,
                SpanChange::Turned(strided) => {
                    strided.fill(span.from, within as u64, some, &read)?;
                }
                SpanChange::Logarithms { count, order } => {
                    let shown = logarithms(span.from, *count, *order, &read)?;
                    some.copy_from_slice(&shown[within..][..here]);
                }
                SpanChange::Rows { order, row } if unit.is_none() => {
                    runs(span.from, *order, *row, within, some, &read)?;
                }
                SpanChange::None | SpanChange::LessOne | SpanChange::Rows { .. } => {}
            }
            if let Some(unit) = unit {
                let [before, middle, after] = whole(&wanted, unit);
                for edge in [before, after] {
                    if !edge.is_empty() {
                        let some = &mut rest[to(&edge)];
                        span.edge(edge.start, some, &read)?;
                    }
                }
                if !middle.is_empty() {
                    let bytes = NearBytes {
                        from: span.from + middle.start as u64,
                        to: to(&middle),
                    };
                    changes.push((&span.change, bytes.to.clone()));
                    match near.last_mut().filter(|(part, _)| *part == span.part) {
                        Some((_, all)) => all.push(bytes),
                        None => near.push((span.part, vec![bytes])),
                    }
                }
            }
            at += here as u64;
            done += here;
        }
        for (part, all) in &near {
            read_near(all, rest, &|at, into| read(*part, at, into))?;
        }
        for (change, bytes) in changes {
            match change {
                SpanChange::LessOne => less_one(&mut rest[bytes]),
                SpanChange::Rows {
                    order: RowOrder::Pairs { head },
                    row,
                } => unpair(&mut rest[bytes], [*head, *row]),
                _ => {}
            }
        }
        Ok(())
    }
}

impl TensorSpan {
    /// Fills `into` with bytes from `within` on that are no whole units of what is changed at once.
    fn edge(&self, within: usize, into: &mut [u8], read: ReadBytes<'_>) -> Result<(), SourceError> {
        match &self.change {
            SpanChange::LessOne => {
                const SIZE: usize = size_of::<f32>();
                let start = within / SIZE * SIZE;
                let mut values = vec![0; (within + into.len()).next_multiple_of(SIZE) - start];
                read(self.from + start as u64, &mut values)?;
                less_one(&mut values);
                into.copy_from_slice(&values[within - start..][..into.len()]);
                Ok(())
            }
            SpanChange::Rows {
                order: RowOrder::Pairs { head },
                row,
            } => pairs(self.from, [*head, *row], within, into, read),
            _ => read(self.from + within as u64, into),
        }
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

/// Takes one from each value in `f32`.
fn less_one(values: &mut [u8]) {
    for value in values.as_chunks_mut().0 {
        *value = (f32::from_le_bytes(*value) - 1.0).to_le_bytes();
    }
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
