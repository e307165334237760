//! A weight of a plan as a tensor of a GGUF file.

use std::borrow::Cow;

use firebox_kernels::arith::float::DType;

use super::known::{GgufSource, KnownModel};
use crate::{
    container::{
        ContainerError,
        columns::HeadColumns,
        layout::adds_one,
        order::{RowOrder, TiledHeads, delta},
    },
    model::decoder::Part,
    source::{
        StoredType,
        gguf::{GgufType, NAME_BYTES},
    },
};

/// A weight that is written.
#[derive(Debug, Clone)]
pub(crate) struct GgufWeight<'a> {
    /// Its name in the plan.
    pub(crate) name: &'a str,
    /// Its type in the plan: blocks, or that of its elements.
    pub(crate) kind: WeightKind,
    /// Outermost dimension first.
    pub(crate) shape: &'a [usize],
}

/// What a weight of a plan consists of.
pub(crate) type WeightKind = Result<GgufType, StoredType>;

/// A tensor of a file that is written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct GgufOut {
    /// Its name in the file.
    pub(crate) name: String,
    /// Its type in the file.
    pub(crate) kind: GgufType,
    /// Outermost dimension first.
    pub(crate) shape: Vec<usize>,
    /// The floats of the plan, where they are widened on the way.
    widened: Option<DType>,
    /// What is computed with each value.
    computed: Computed,
    /// The order of its rows, where it is another one.
    order: Option<RowOrder>,
    /// The order of its columns, where it is another one.
    columns: Option<HeadColumns>,
}

/// What is computed with each value of a vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Computed {
    Nothing,
    /// One is added.
    PlusOne,
    /// Of logarithms, the negatives of what they are of.
    Negated,
}

impl GgufOut {
    /// Bytes of the tensor in the file.
    pub(crate) fn bytes(&self) -> u64 {
        self.kind.bytes(&self.shape)
    }

    /// Whether its bytes are those of the plan, one after another.
    pub(crate) fn is_as_planned(&self) -> bool {
        let moved = self.order.is_some() || self.columns.is_some();
        self.widened.is_none() && !moved && self.computed == Computed::Nothing
    }

    /// All its bytes in the file, from those of the plan.
    pub(crate) fn stored<'b>(&self, planned: &'b [u8]) -> Cow<'b, [u8]> {
        let mut bytes = Cow::Borrowed(planned);
        if self.widened.is_some() || self.computed != Computed::Nothing {
            let from = self.widened.unwrap_or(DType::F32);
            let mut values = vec![0.0; planned.len() / from.size()];
            from.widen(planned, &mut values);
            let computed = values.iter().map(|value| match self.computed {
                Computed::Nothing => *value,
                Computed::PlusOne => value + 1.0,
                Computed::Negated => -value.exp(),
            });
            bytes = computed.flat_map(f32::to_le_bytes).collect();
        }
        let rows = self.shape.first().copied().unwrap_or(1).max(1);
        let row = bytes.len() / rows;
        if let Some(columns) = self.columns {
            let rows = bytes.chunks(row.max(1));
            let moved = rows.map(|row| columns.moved(row, true).unwrap_or_else(|| row.to_vec()));
            bytes = moved.flatten().collect();
        }
        let Some(order) = self.order else {
            return bytes;
        };
        let mut turned = vec![0; bytes.len()];
        for (nth, values) in bytes.chunks(row.max(1)).enumerate() {
            turned[order.stored(nth) * row..][..row].copy_from_slice(values);
        }
        turned.into()
    }
}

/// The tensor that a weight becomes.
pub(super) fn placed(
    source: &GgufSource<'_>,
    known: Option<&KnownModel>,
    weight: &GgufWeight<'_>,
) -> Result<GgufOut, ContainerError> {
    let unwritable = |reason: String| ContainerError::Unwritable {
        file: source.label.to_owned(),
        tensor: weight.name.to_owned(),
        reason,
    };
    let kind = weight.kind.map_err(|dtype| {
        unwritable(format!(
            "is of the type {dtype}, which GGUF files do not have; leave it out, or write another format"
        ))
    })?;
    let (name, part) = match known {
        None => (weight.name.to_owned(), None),
        Some(model) => match model.names.get(weight.name) {
            Some((name, part)) => (name.clone(), Some(*part)),
            None => {
                let family = model.family.name;
                return Err(unwritable(format!(
                    "has no name in GGUF files of the architecture {family}"
                )));
            }
        },
    };
    if name.len() >= NAME_BYTES {
        let (len, max) = (name.len(), NAME_BYTES - 1);
        return Err(unwritable(format!(
            "has a name of {len} bytes, and GGUF files have room for {max}; rename it"
        )));
    }
    let mut shape = weight.shape.to_vec();
    if shape.contains(&0) {
        return Err(unwritable(format!(
            "is {shape:?}, and GGUF files have no empty tensors"
        )));
    }
    // The factors of a convolution are a matrix there.
    if let (Some(Part::DeltaConvolution), &[rows, 1, cols]) = (part, &shape[..]) {
        shape = vec![rows, cols];
    }
    // A number is a list of one; of the matrix with one row files have the row.
    if shape.is_empty() || (part == Some(Part::SharedMix) && shape.len() == 2) {
        shape = vec![shape.iter().product()];
    }
    if shape.len() > 4 {
        return Err(unwritable(format!(
            "is {shape:?}, and GGUF files have four sides at most"
        )));
    }
    let float = match kind {
        GgufType::Plain(StoredType::F16) => Some(DType::F16),
        GgufType::Plain(StoredType::BF16) => Some(DType::Bf16),
        GgufType::Plain(StoredType::F32) => Some(DType::F32),
        _ => None,
    };
    // llama.cpp adds and multiplies by vectors in f32, and by some matrices.
    let is_f32 = part.is_some_and(|part| {
        [Part::Router, Part::Positions, Part::DeltaConvolution].contains(&part)
    });
    let is_small = shape.len() == 1 || is_f32;
    let widened = float.filter(|float| known.is_some() && is_small && *float != DType::F32);
    let mut out = GgufOut {
        name,
        kind: match widened {
            Some(_) => GgufType::Plain(StoredType::F32),
            None => kind,
        },
        shape,
        widened,
        computed: Computed::Nothing,
        order: None,
        columns: None,
    };
    let (Some(model), Some(part)) = (known, part) else {
        return Ok(out);
    };
    if adds_one(&model.spec, part, &out.name) {
        out.computed = Computed::PlusOne;
    }
    if part == Part::DeltaFadeFactor {
        out.computed = Computed::Negated;
    }
    if let Some(heads) = delta(&model.spec).and_then(TiledHeads::of)
        && part == Part::DeltaOut
        && model.family.name != "qwen3next"
    {
        let cols = out.shape.last().copied().unwrap_or_default();
        let columns = HeadColumns::new(out.kind, heads, cols);
        let head = cols / heads.count();
        let whole = columns.filter(|columns| !columns.is_unpacked());
        out.columns = Some(whole.ok_or_else(|| {
            unwritable(format!(
                "has blocks that reach over heads of {head} columns, whose order is another in GGUF files; give it blocks of 32 by a \
                 rule (`--rule *.linear_attn.out_proj=q5_0`)"
            ))
        })?);
    }
    let attention = model.spec.layers.iter().find_map(|layer| layer.attention());
    if let Some(attention) = attention {
        let heads = [attention.heads, attention.key_value_heads];
        out.order = RowOrder::of(model.family, &model.spec, part, heads, out.shape[0]);
    }
    Ok(out)
}
