//! A file of safetensors that is nowhere, and where its bytes are.

use core::ops::Range;

use serde_json::{Map, Value, json};

use super::{
    ContainerError,
    family::GgufFamily,
    names::named,
    parts::GgufParts,
    unfold::{KEYS, Unfolded, VALUES},
};
use crate::{
    dialect::gguf,
    model::decoder::{Part, Spec},
    source::{
        StoredType,
        gguf::{GgufTensor, GgufType},
    },
};

/// A model whose architecture is known.
#[derive(Debug)]
pub(super) struct ReadModel {
    pub(super) family: &'static GgufFamily,
    pub(super) spec: Spec,
    /// Of queries and of keys.
    pub(super) heads: [usize; 2],
}

/// Bytes of a file of safetensors, and the bytes of the container that they are.
#[derive(Debug)]
pub(super) struct GgufLayout {
    /// What the file begins with: the length of its header, and that.
    pub(super) head: Vec<u8>,
    /// By their first bytes, without gaps after the head.
    pub(super) spans: Vec<TensorSpan>,
}

/// The bytes of a tensor.
#[derive(Debug)]
pub(super) struct TensorSpan {
    /// In the file of safetensors.
    pub(super) range: Range<u64>,
    /// The file of the container, by its number.
    pub(super) part: usize,
    /// The first byte in that file.
    pub(super) from: u64,
    /// How they become those of transformers.
    pub(super) change: SpanChange,
}

/// How the bytes of a tensor become those of transformers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SpanChange {
    /// They are the same.
    None,
    /// Each value in `f32` is one less: transformers adds one where it multiplies.
    LessOne,
    /// It is made of two tensors.
    Unfolded(Unfolded),
    /// The rows are in another order.
    Rows {
        /// Which.
        order: RowOrder,
        /// Bytes of a row.
        row: usize,
    },
}

/// The order of rows in a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowOrder {
    /// Each head has its rows as pairs: those of the first half of a head, each followed by one of the second half.
    Pairs {
        /// Rows of a head.
        head: usize,
    },
    /// Queries of all heads, keys of all, values of all; in transformers, those of each head are together.
    Thirds {
        /// Heads.
        heads: usize,
        /// Rows of a head.
        head: usize,
    },
}

impl RowOrder {
    /// The row of the container that a row of transformers is.
    pub(super) const fn stored(self, row: usize) -> usize {
        match self {
            Self::Pairs { head } => {
                let (first, within) = (row / head * head, row % head);
                first
                    + match within < head / 2 {
                        true => 2 * within,
                        false => 2 * (within - head / 2) + 1,
                    }
            }
            Self::Thirds { heads, head } => {
                let (group, within) = (row / head, row % head);
                (group % 3 * heads + group / 3) * head + within
            }
        }
    }

    /// Rows of transformers that follow one another in the container too.
    pub(super) const fn run(self) -> usize {
        match self {
            Self::Pairs { .. } => 1,
            Self::Thirds { head, .. } => head,
        }
    }

    /// The order that an architecture has for a part, where it is another; `heads` are those of queries and of keys.
    pub(super) fn of(
        family: &GgufFamily,
        part: Part,
        heads: [usize; 2],
        rows: usize,
    ) -> Option<Self> {
        match part {
            Part::Q if family.pairs => Some(Self::Pairs {
                head: rows / heads[0].max(1),
            }),
            Part::K if family.pairs => Some(Self::Pairs {
                head: rows / heads[1].max(1),
            }),
            Part::Qkv if family.name == "gptneox" => Some(Self::Thirds {
                heads: heads[0],
                head: rows / (3 * heads[0]).max(1),
            }),
            _ => None,
        }
    }
}

impl GgufLayout {
    /// All tensors in the order of the container, whose `parts` have files of their own. Without a `model`, they keep their names.
    pub(super) fn new(
        file: &str,
        parts: &GgufParts,
        model: Option<&ReadModel>,
    ) -> Result<Self, ContainerError> {
        let mut header = Map::new();
        let mut spans = Vec::with_capacity(parts.header.tensors.len());
        let mut next = 0;
        for tensor in &parts.header.tensors {
            if model.is_some_and(|model| model.family.is_latent()) && tensor.name.ends_with(VALUES)
            {
                continue;
            }
            let shown = shown(file, parts, model, tensor)?;
            let range = next..next + shown.length;
            let offsets = [range.start, range.end];
            let entry =
                json!({ "dtype": shown.dtype, "shape": shown.shape, "data_offsets": offsets });
            header.insert(shown.name, entry);
            next = range.end;
            spans.push(TensorSpan {
                range,
                part: parts.part_of(&tensor.name),
                from: tensor.range.start,
                change: shown.change,
            });
        }
        let header = Value::Object(header).to_string();
        let mut head = (header.len() as u64).to_le_bytes().to_vec();
        head.extend(header.into_bytes());
        for span in &mut spans {
            let Range { start, end } = span.range;
            span.range = start + head.len() as u64..end + head.len() as u64;
        }
        Ok(Self { head, spans })
    }

    /// Bytes of the file.
    pub(super) fn len(&self) -> u64 {
        let last = self.spans.last();
        last.map_or(self.head.len() as u64, |last| last.range.end)
    }
}

/// A tensor as a file of safetensors has it.
struct ShownTensor {
    name: String,
    dtype: &'static str,
    shape: Vec<usize>,
    /// Its bytes.
    length: u64,
    change: SpanChange,
}

/// What is shown of a tensor.
fn shown(
    file: &str,
    parts: &GgufParts,
    model: Option<&ReadModel>,
    tensor: &GgufTensor,
) -> Result<ShownTensor, ContainerError> {
    let length = tensor.range.end - tensor.range.start;
    let mut shape = tensor.shape.clone();
    let (mut name, mut change) = (tensor.name.clone(), SpanChange::None);
    if let Some(model) = model {
        let ReadModel {
            family,
            spec,
            heads,
        } = model;
        let (named, part) = named(file, &tensor.name, family, spec)?;
        if family.is_latent() && tensor.name.ends_with(KEYS) {
            let unfolded = Unfolded::new(file, parts, tensor)?;
            let shape = unfolded.shape();
            return Ok(ShownTensor {
                name: named,
                dtype: StoredType::F32.name(),
                length: (shape.iter().product::<usize>() * size_of::<f32>()) as u64,
                shape: shape.to_vec(),
                change: SpanChange::Unfolded(unfolded),
            });
        }
        // A matrix of one row, of which files have the row.
        if part == Part::SharedMix && shape.len() == 1 {
            shape.insert(0, 1);
        }
        let rows = tensor.shape.first().copied().unwrap_or_default();
        change = match RowOrder::of(family, part, *heads, rows) {
            Some(order) => turned(file, tensor, order, heads[usize::from(part == Part::K)])?,
            None if adds_one(spec, part, &tensor.name) => less_one(file, tensor)?,
            None => SpanChange::None,
        };
        name = named;
    }
    let (name, dtype) = match tensor.kind {
        GgufType::Plain(dtype) => (name, dtype.name()),
        GgufType::Blocks(kind) => {
            if let Some(cols) = shape.last_mut() {
                *cols = kind.row_bytes(*cols);
            }
            (gguf::tensor(&name, kind), StoredType::U8.name())
        }
    };
    Ok(ShownTensor {
        name,
        dtype,
        shape,
        length,
        change,
    })
}

/// Whether a tensor of transformers is one less than what it is multiplied by: norms of some families.
pub(super) fn adds_one(spec: &Spec, part: Part, tensor: &str) -> bool {
    spec.norm.plus_one && NORMS.contains(&part) && tensor.ends_with(".weight")
}

/// Norms, which some families store without the one that is added to them.
const NORMS: [Part; 7] = [
    Part::AttentionNorm,
    Part::AttentionNormAfter,
    Part::KNorm,
    Part::MlpNorm,
    Part::MlpNormAfter,
    Part::Norm,
    Part::QNorm,
];

fn less_one(file: &str, tensor: &GgufTensor) -> Result<SpanChange, ContainerError> {
    match tensor.kind {
        GgufType::Plain(StoredType::F32) => Ok(SpanChange::LessOne),
        _ => Err(ContainerError::Norm {
            file: file.to_owned(),
            tensor: tensor.name.clone(),
        }),
    }
}

/// Refuses rows that are not whole heads.
fn turned(
    file: &str,
    tensor: &GgufTensor,
    order: RowOrder,
    heads: usize,
) -> Result<SpanChange, ContainerError> {
    let rows = tensor.shape.first().copied().unwrap_or_default();
    let (is_even, whole) = match order {
        RowOrder::Pairs { head } => (head % 2 == 0, head * heads),
        RowOrder::Thirds { head, .. } => (true, 3 * head * heads),
    };
    if !is_even || whole == 0 || whole != rows {
        return Err(ContainerError::Heads {
            file: file.to_owned(),
            tensor: tensor.name.clone(),
            found: tensor.shape.clone(),
            heads,
        });
    }
    let bytes = tensor.range.end - tensor.range.start;
    Ok(SpanChange::Rows {
        order,
        row: (bytes / rows as u64) as usize,
    })
}
