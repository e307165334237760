//! A weight of a plan as a tensor of a GGUF file.

use std::borrow::Cow;

use firebox_kernels::arith::float::DType;

use super::known::{GgufSource, KnownModel};
use crate::{
    container::{
        ContainerError,
        layout::{RowOrder, adds_one},
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
    /// Whether one is added to each value.
    plus_one: bool,
    /// The order of its rows, where it is another one.
    order: Option<RowOrder>,
}

impl GgufOut {
    /// Bytes of the tensor in the file.
    pub(crate) fn bytes(&self) -> u64 {
        self.kind.bytes(&self.shape)
    }

    /// Whether its bytes are those of the plan, one after another.
    pub(crate) fn is_as_planned(&self) -> bool {
        self.widened.is_none() && self.order.is_none() && !self.plus_one
    }

    /// All its bytes in the file, from those of the plan.
    pub(crate) fn stored<'b>(&self, planned: &'b [u8]) -> Cow<'b, [u8]> {
        let mut bytes = Cow::Borrowed(planned);
        if self.widened.is_some() || self.plus_one {
            let from = self.widened.unwrap_or(DType::F32);
            let mut values = vec![0.0; planned.len() / from.size()];
            from.widen(planned, &mut values);
            let one = if self.plus_one { 1.0 } else { 0.0 };
            let values = values.iter();
            bytes = values
                .flat_map(|value| (value + one).to_le_bytes())
                .collect();
        }
        let Some(order) = self.order else {
            return bytes;
        };
        let rows = self.shape.first().copied().unwrap_or(1).max(1);
        let row = bytes.len() / rows;
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
    // llama.cpp adds and multiplies by vectors in f32.
    let is_small = shape.len() == 1 || part == Some(Part::Router);
    let widened = float.filter(|float| known.is_some() && is_small && *float != DType::F32);
    let mut out = GgufOut {
        name,
        kind: match widened {
            Some(_) => GgufType::Plain(StoredType::F32),
            None => kind,
        },
        shape,
        widened,
        plus_one: false,
        order: None,
    };
    let (Some(model), Some(part)) = (known, part) else {
        return Ok(out);
    };
    out.plus_one = adds_one(&model.spec, part, &out.name);
    let attention = model.spec.layers.iter().find_map(|layer| layer.attention());
    if let Some(attention) = attention {
        let heads = [attention.heads, attention.key_value_heads];
        out.order = RowOrder::of(model.family, part, heads, out.shape[0]);
    }
    Ok(out)
}
