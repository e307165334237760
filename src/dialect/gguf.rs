//! `quant_method: gguf`: blocks of a GGUF file, as the [container](crate::container) shows them.
//!
//! ```text
//! X.gguf_TYPE           U8 [out, bytes of a row], whole blocks of TYPE (q4_0, q6_k, …) as they stand in the file
//! ```
//!
//! `X.weight` is the weight. Each has a type of its own, and any weight may be dense. The matrices of all experts are one tensor,
//! under the name that mlx-lm has for the stack.

use std::sync::Arc;

use firebox_kernels::{
    arith::float::DType,
    format::{Format, Gguf, Packed},
};
use serde_json::{Value, json};

use super::{
    Adopt, Assembly, Codes, Dialect, DialectError, Files, Tensor, Writer, experts,
    in_stack::InStack,
    lookup::Lookup,
    stack::{PackedStack, by_parts},
    types::{beside_name, matrix, stacked},
    write::Matrices,
};
use crate::{
    config::To,
    model::Slot,
    source::{Catalog, StoredType, TensorInfo},
};

pub(crate) const NAME: &str = To::Gguf.name();

/// What comes before the name of a type in the name of a tensor.
const PART: &str = "gguf_";

#[derive(Debug)]
struct GgufDialect;

pub(super) fn declared() -> Arc<dyn Dialect> {
    Arc::new(GgufDialect)
}

/// The tensor that has the blocks of a weight.
pub(crate) fn tensor(weight: &str, kind: Gguf) -> String {
    beside_name(weight, &part(kind))
}

fn part(kind: Gguf) -> String {
    format!("{PART}{}", kind.name())
}

/// The block type that the name of a tensor says, and the module before it.
fn of_name(tensor: &str) -> Option<(&str, Gguf)> {
    let (module, part) = tensor.rsplit_once('.')?;
    let name = part.strip_prefix(PART)?;
    let kind = Gguf::ALL.into_iter().find(|kind| kind.name() == name)?;
    Some((module, kind))
}

/// Whether a tensor of this name has blocks.
pub(super) fn is_sign(tensor: &TensorInfo) -> bool {
    tensor.dtype == StoredType::U8 && of_name(&tensor.name).is_some()
}

/// Whether a weight is of blocks.
pub(super) fn is_packed(weight: &str, catalog: &Catalog) -> bool {
    let mut kinds = Gguf::ALL.into_iter();
    kinds.any(|kind| catalog.get(&tensor(weight, kind)).is_some())
}

impl Dialect for GgufDialect {
    fn name(&self) -> &'static str {
        NAME
    }

    fn weight_of(
        &self,
        tensor: &TensorInfo,
        _: &Files<'_>,
    ) -> Result<Option<(String, Vec<usize>)>, DialectError> {
        Ok(match (of_name(&tensor.name), &tensor.shape[..]) {
            (Some((module, kind)), &[ref outer @ .., bytes]) => {
                let cols = bytes / kind.bytes() * kind.block();
                Some((format!("{module}.weight"), [outer, &[cols]].concat()))
            }
            _ => None,
        })
    }

    fn stack(&self, slot: &Slot, catalog: &Catalog) -> Result<Option<PackedStack>, DialectError> {
        for (stack, nth) in experts::stacks_of(&slot.name) {
            let has = |kind: &Gguf| catalog.get(&tensor(&stack, *kind)).is_some();
            if let Some(kind) = Gguf::ALL.into_iter().find(has) {
                let place = Some(InStack { stack, nth });
                return by_parts(NAME, &[&part(kind)], slot, place, catalog);
            }
        }
        Ok(None)
    }

    fn adopt_matrix(&self, lookup: &Lookup<'_>) -> Result<Option<Adopt>, DialectError> {
        let mut found = Gguf::ALL.into_iter().filter_map(|kind| {
            let tensor = lookup.beside(&part(kind))?;
            Some((kind, tensor))
        });
        let Some((kind, tensor)) = found.next() else {
            return lookup.plain(lookup.weight(), true, PART).map(|()| None);
        };
        if let Some(other) = found.next().map(|(_, other)| other).or(lookup.weight()) {
            return Err(DialectError::Unpacked {
                tensor: other.name.to_string(),
                dtype: other.dtype,
                field: PART,
            });
        }
        let format = Format::Gguf(kind);
        lookup.format(format.validate_shape(lookup.shape))?;
        lookup.dtype(tensor, &[StoredType::U8])?;
        let [rows, cols] = lookup.shape;
        lookup.shape(tensor, &[&lookup.stacked([rows, kind.row_bytes(cols)])])?;
        Ok(Some(Adopt::new(
            format,
            vec![tensor.clone()],
            Assembly::Blocks,
        )))
    }
}

#[derive(Debug)]
struct GgufWriter;

pub(super) fn writer(matrices: &Matrices) -> Result<Box<dyn Writer>, DialectError> {
    let is_block = |format| matches!(format, Format::Gguf(_));
    // A file without blocks is one of llama.cpp too.
    if !matrices.packed.is_empty() {
        matrices.kinds(NAME, |weight| is_block(weight.format).then_some(()), true)?;
    }
    Ok(Box::new(GgufWriter))
}

impl Writer for GgufWriter {
    fn tensors_max(&self) -> usize {
        1
    }

    fn config(&self) -> Vec<(&'static str, Value)> {
        vec![("quantization_config", json!({ "quant_method": NAME }))]
    }

    fn codes(&self, slot: &Slot, format: Format) -> Option<Codes> {
        let Format::Gguf(kind) = format else {
            return None;
        };
        let [rows, cols] = matrix(slot);
        let shape = stacked(slot, [rows, kind.row_bytes(cols)]);
        Some(Codes::blocks(slot, tensor(&slot.name, kind), &shape, kind))
    }

    fn tensors(&self, slot: &Slot, packed: Packed, _: DType) -> Vec<Tensor> {
        let codes = self.codes(slot, packed.format);
        codes.map_or(Vec::new(), |codes| codes.unless_written(packed.words))
    }
}
