//! `quant_method: mxfp4`: the experts of gpt-oss, as OpenAI stores them and transformers reads them.
//!
//! ```text
//! X_blocks              U8 [experts, out, in / 32, 16], two codes of E2M1 a byte, the first one in the low half
//! X_scales              U8 [experts, out, in / 32], exponents: a scale is 2^(byte - 127)
//! ```
//!
//! `X` is the name of the dense stack, such as `mlp.experts.gate_up_proj`, whose matrices lie the other way round:
//! `[experts, in, out]`. Every other weight is dense.

use std::sync::Arc;

use firebox_kernels::{
    arith::float::DType,
    format::{Format, Micro, Packed},
    packing::Packing,
};
use serde_json::{Value, json};

use super::{
    Adopt, Assembly, Codes, Dialect, DialectError, Files, PackedSlot, Provenance, Tensor, Writer,
    in_stack::InStack,
    lookup::Lookup,
    names::Excepted,
    stack::{PackedStack, by_parts},
    types::{matrix, stacked},
    write::Matrices,
};
use crate::{
    config::To,
    model::{Slot, fields::Fields},
    source::{Catalog, StoredType, TensorInfo},
};

pub(super) const NAME: &str = To::Mxfp4.name();
const SKIP: &str = "modules_to_not_convert";
/// Modules that gpt-oss has beside its experts, as OpenAI lists them.
const DENSE: [&str; 4] = [
    "model.layers.*.self_attn",
    "model.layers.*.mlp.router",
    "model.embed_tokens",
    "lm_head",
];
/// The ends of the names of a stack's tensors.
pub(super) const BLOCKS: &str = "_blocks";
const SCALES: &str = "_scales";
/// Codes under one scale, and the bytes of them.
const GROUP: usize = 32;
const BLOCK_BYTES: usize = 16;

#[derive(Debug)]
struct Mxfp4Dialect {
    excepted: Excepted,
}

pub(super) fn declared(config: Fields<'_>) -> Result<Arc<dyn Dialect>, DialectError> {
    let excepted = Excepted::new(config, SKIP)?;
    Ok(Arc::new(Mxfp4Dialect { excepted }))
}

impl Dialect for Mxfp4Dialect {
    fn name(&self) -> &'static str {
        NAME
    }

    fn weight_of(
        &self,
        tensor: &TensorInfo,
        _: &Files<'_>,
    ) -> Result<Option<(String, Vec<usize>)>, DialectError> {
        let stack = tensor.name.strip_suffix(BLOCKS);
        Ok(match (stack, &tensor.shape[..]) {
            (Some(stack), &[experts, out, groups, BLOCK_BYTES]) => {
                Some((stack.to_owned(), vec![experts, out, groups * GROUP]))
            }
            _ => None,
        })
    }

    /// The rows of the dense stack are those of matrices `[in, out]`.
    fn stack(&self, slot: &Slot, catalog: &Catalog) -> Result<Option<PackedStack>, DialectError> {
        let place = InStack::by_origin(slot, true);
        by_parts(NAME, &[BLOCKS, SCALES], slot, place, catalog)
    }

    fn adopt_matrix(&self, lookup: &Lookup<'_>) -> Result<Option<Adopt>, DialectError> {
        let Some(blocks) = lookup.beside(BLOCKS) else {
            return Ok(None);
        };
        if lookup.is_excepted(&self.excepted) {
            return Err(lookup.excepted(SKIP));
        }
        if let Some(dense) = lookup.weight() {
            return Err(DialectError::Unpacked {
                tensor: dense.name.to_string(),
                dtype: dense.dtype,
                field: SKIP,
            });
        }
        let format = Packing::Micro(Micro::Mxfp4).format(lookup.shape, DType::F32);
        let format = lookup.format(format)?;
        let scales = lookup.need(SCALES)?;
        let [blocks_shape, scales_shape] = shapes(lookup.slot);
        for (tensor, shape) in [(blocks, blocks_shape), (scales, scales_shape)] {
            lookup.dtype(tensor, &[StoredType::U8])?;
            lookup.shape(tensor, &[&shape])?;
        }
        let adopt = Adopt::new(
            format,
            vec![blocks.clone(), scales.clone()],
            Assembly::Stored,
        );
        Ok(Some(adopt.from(Provenance {
            turned: true,
            ..Provenance::default()
        })))
    }
}

/// The shapes of blocks and scales of the weight of `slot`.
fn shapes(slot: &Slot) -> [Vec<usize>; 2] {
    let [rows, cols] = matrix(slot);
    let scales = stacked(slot, [rows, cols / GROUP]);
    [[&scales[..], &[BLOCK_BYTES]].concat(), scales]
}

/// Writes experts whose dense matrices are stored `[in, out]`, as those of gpt-oss are.
#[derive(Debug)]
struct Mxfp4Writer;

pub(super) fn writer(matrices: &Matrices) -> Result<Box<dyn Writer>, DialectError> {
    let kind = |weight: &PackedSlot| {
        let is_stack = weight.slot.shape.len() == 3 && weight.provenance.turned;
        (is_stack && weight.format == Format::Micro(Micro::Mxfp4)).then_some(())
    };
    matrices.kind(NAME, kind)?;
    Ok(Box::new(Mxfp4Writer))
}

impl Writer for Mxfp4Writer {
    fn config(&self) -> Vec<(&'static str, Value)> {
        let config = json!({ SKIP: DENSE, "quant_method": NAME });
        vec![("quantization_config", config)]
    }

    fn codes(&self, slot: &Slot, format: Format) -> Option<Codes> {
        let [blocks, _] = shapes(slot);
        let name = format!("{}{BLOCKS}", slot.name);
        Some(Codes::new(slot, StoredType::U8, &blocks, format).named(name))
    }

    fn tensors(&self, slot: &Slot, mut packed: Packed, _: DType) -> Vec<Tensor> {
        let codes = self.codes(slot, packed.format);
        let codes = codes.map(|codes| codes.unless_written(core::mem::take(&mut packed.words)));
        let mut tensors = codes.unwrap_or_default();
        let ([_, scales], name) = (shapes(slot), format!("{}{SCALES}", slot.name));
        tensors.push(Tensor::words(name, StoredType::U8, &scales, packed.scales));
        tensors
    }
}
