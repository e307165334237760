//! A tensor of a container as a file of safetensors has it.

use super::{
    ContainerError, columns::HeadColumns, family::GgufFamily, order::RowOrder, strided::Strided,
    unfold::Unfolded,
};
use crate::{
    dialect::gguf,
    model::decoder::Spec,
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

/// How the bytes of a tensor become those of transformers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SpanChange {
    /// They are the same.
    None,
    /// Each value in `f32` is one less: transformers adds one where it multiplies.
    LessOne,
    /// The values in `f32` are negative, and transformers has the logarithms of what they are above 0.
    Logarithms {
        /// How many.
        count: usize,
        /// Their order, where it is another.
        order: Option<RowOrder>,
    },
    /// It is made of two tensors.
    Unfolded(Unfolded),
    /// The columns are in another order.
    Columns(HeadColumns),
    /// Rows are columns.
    Turned(Strided),
    /// The rows are in another order.
    Rows {
        /// Which.
        order: RowOrder,
        /// Bytes of a row.
        row: usize,
    },
}

/// A tensor as a file of safetensors has it.
pub(super) struct ShownTensor {
    pub(super) name: String,
    pub(super) dtype: &'static str,
    pub(super) shape: Vec<usize>,
    /// Its bytes.
    pub(super) length: u64,
    pub(super) change: SpanChange,
}

/// The error of a tensor of a shape that its part cannot have.
pub(super) fn unknown(
    file: &str,
    tensor: &GgufTensor,
    model: Option<&ReadModel>,
) -> ContainerError {
    ContainerError::UnknownTensor {
        file: file.to_owned(),
        tensor: format!("{} {:?}", tensor.name, tensor.shape),
        architecture: model.map_or("", |model| model.family.name),
    }
}

/// The name and the type that are shown of a tensor, and its shape in place of that of its values.
pub(super) fn stored_as(
    name: String,
    kind: GgufType,
    shape: &mut [usize],
) -> (String, &'static str) {
    match kind {
        GgufType::Plain(dtype) => (name, dtype.name()),
        GgufType::Blocks(kind) => {
            if let Some(cols) = shape.last_mut() {
                *cols = kind.row_bytes(*cols);
            }
            (gguf::tensor(&name, kind), StoredType::U8.name())
        }
    }
}
