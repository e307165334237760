//! A file of safetensors that is nowhere, and where its bytes are.

use core::ops::Range;

use serde_json::{Map, Value, json};

use super::{
    ContainerError,
    columns::HeadColumns,
    halves::halves,
    names::named,
    order::{RowOrder, TiledHeads, delta},
    parts::GgufParts,
    shown::{ReadModel, ShownTensor, SpanChange, stored_as, unknown},
    strided::Strided,
    unfold::{KEYS, Unfolded, VALUES},
};
use crate::{
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
    /// The file of the container, by its number.
    pub(super) part: usize,
    /// The first byte in that file.
    pub(super) from: u64,
    /// How they become those of transformers.
    pub(super) change: SpanChange,
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
            let halves = model.map_or(Vec::new(), |model| halves(model, tensor));
            let all = match &halves[..] {
                [] => vec![shown(file, parts, model, tensor)?],
                halves => (halves.iter())
                    .map(|half| half.shown(file, model, tensor))
                    .collect::<Result<_, _>>()?,
            };
            for shown in all {
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
        if part == Part::DeltaConvolution && shape.len() == 2 {
            shape.insert(1, 1);
        }
        let rows = tensor.shape.first().copied().unwrap_or_default();
        let order = RowOrder::of(family, spec, part, *heads, rows);
        change = match order {
            _ if part == Part::DeltaFadeFactor => logarithms(file, model, tensor, order)?,
            Some(order) => turned(file, tensor, order, heads[usize::from(part == Part::K)])?,
            None if adds_one(spec, part, &tensor.name) => less_one(file, tensor)?,
            None if is_turned(spec, part, tensor) => {
                shape.reverse();
                transposed(file, tensor)?
            }
            None => SpanChange::None,
        };
        name = named;
        if let Some(columns) = columns(model, part, tensor) {
            let columns = columns.ok_or_else(|| unknown(file, tensor, Some(model)))?;
            if columns.is_unpacked() {
                return Ok(ShownTensor {
                    name,
                    dtype: StoredType::F32.name(),
                    length: (shape.iter().product::<usize>() * size_of::<f32>()) as u64,
                    shape,
                    change: SpanChange::Columns(columns),
                });
            }
            change = SpanChange::Columns(columns);
        }
    }
    let (name, dtype) = stored_as(name, tensor.kind, &mut shape);
    Ok(ShownTensor {
        name,
        dtype,
        shape,
        length,
        change,
    })
}

/// The columns of the matrix out of a delta layer, whose heads are in another order; `None` within for a matrix of another shape.
fn columns(model: &ReadModel, part: Part, tensor: &GgufTensor) -> Option<Option<HeadColumns>> {
    let is_tiled = model.family.is_hybrid() && model.family.name != "qwen3next";
    let delta = delta(&model.spec).filter(|_| part == Part::DeltaOut && is_tiled)?;
    let heads = TiledHeads::of(delta)?;
    Some(match tensor.shape[..] {
        [_, cols] => HeadColumns::new(tensor.kind, heads, cols),
        _ => None,
    })
}

/// Whether transformers has a matrix of a file the other way round. Blocks stay as they are: they are packed as `[out, in]` there too.
fn is_turned(spec: &Spec, part: Part, tensor: &GgufTensor) -> bool {
    let is_matrix = [Part::Qkv, Part::O, Part::Up, Part::Down].contains(&part);
    let is_plain = matches!(tensor.kind, GgufType::Plain(_));
    spec.transposed && is_matrix && is_plain && tensor.shape.len() == 2
}

fn transposed(file: &str, tensor: &GgufTensor) -> Result<SpanChange, ContainerError> {
    let GgufType::Plain(dtype) = tensor.kind else {
        return Ok(SpanChange::None);
    };
    let (rows, cols) = (tensor.shape[0], tensor.shape[1]);
    match Strided::new(dtype, &[cols, rows], &[1, cols as u64], false) {
        Ok(strided) => Ok(strided.map_or(SpanChange::None, SpanChange::Turned)),
        Err(_) => Err(unknown(file, tensor, None)),
    }
}

fn logarithms(
    file: &str,
    model: &ReadModel,
    tensor: &GgufTensor,
    order: Option<RowOrder>,
) -> Result<SpanChange, ContainerError> {
    let count = tensor.shape.iter().product();
    let heads = delta(&model.spec).map(|delta| delta.value_heads);
    match tensor.kind {
        _ if heads != Some(count) => Err(unknown(file, tensor, Some(model))),
        GgufType::Plain(StoredType::F32) => Ok(SpanChange::Logarithms { count, order }),
        _ => Err(ContainerError::Norm {
            file: file.to_owned(),
            tensor: tensor.name.clone(),
        }),
    }
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
        RowOrder::Tiled { kept, heads, head } => (true, kept + heads.count() * head),
        RowOrder::Every { .. } | RowOrder::KeyHeads { .. } => (true, rows),
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
