//! A file of safetensors that is nowhere, and where its bytes are.

use core::ops::Range;

use serde_json::{Map, Value, json};

use super::{ContainerError, family::GgufFamily, names::named};
use crate::{
    dialect::gguf,
    model::decoder::{Part, Spec},
    source::{
        StoredType,
        gguf::{GgufTensor, GgufType},
    },
};

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
    /// The first byte in the container.
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
    /// Each head has its rows as pairs: those of the first half of a head, each followed by one of the second half.
    Pairs {
        /// Rows of a head.
        head: usize,
        /// Bytes of a row.
        row: usize,
    },
}

impl GgufLayout {
    /// All tensors in the order of the container; `heads` are those of queries and of keys.
    pub(super) fn new(
        file: &str,
        tensors: &[GgufTensor],
        family: &GgufFamily,
        spec: &Spec,
        heads: [usize; 2],
    ) -> Result<Self, ContainerError> {
        let mut header = Map::new();
        let mut spans = Vec::with_capacity(tensors.len());
        let mut next = 0;
        for tensor in tensors {
            let (name, part) = named(file, &tensor.name, family, spec)?;
            let length = tensor.range.end - tensor.range.start;
            let (name, dtype, shape) = match tensor.kind {
                GgufType::Plain(dtype) => (name, dtype.name(), tensor.shape.clone()),
                GgufType::Blocks(kind) => {
                    let mut shape = tensor.shape.clone();
                    if let Some(cols) = shape.last_mut() {
                        *cols = kind.row_bytes(*cols);
                    }
                    (gguf::tensor(&name, kind), "U8", shape)
                }
            };
            let offsets = [next, next + length];
            let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": offsets });
            header.insert(name, entry);
            let change = match part {
                Part::Q if family.pairs => pairs(file, tensor, heads[0])?,
                Part::K if family.pairs => pairs(file, tensor, heads[1])?,
                part if spec.norm.plus_one && NORMS.contains(&part) => less_one(file, tensor)?,
                _ => SpanChange::None,
            };
            spans.push(TensorSpan {
                range: next..next + length,
                from: tensor.range.start,
                change,
            });
            next += length;
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

fn pairs(file: &str, tensor: &GgufTensor, heads: usize) -> Result<SpanChange, ContainerError> {
    let rows = tensor.shape.first().copied().unwrap_or_default();
    if heads == 0 || !rows.is_multiple_of(2 * heads) {
        return Err(ContainerError::Heads {
            file: file.to_owned(),
            tensor: tensor.name.clone(),
            found: tensor.shape.clone(),
            heads,
        });
    }
    let bytes = tensor.range.end - tensor.range.start;
    Ok(SpanChange::Pairs {
        head: rows / heads,
        row: (bytes / rows as u64) as usize,
    })
}
