//! The matrix of one expert in a stack that is packed as one: its blocks, where no block has values of two experts.

use firebox_kernels::formats::nested;

use super::{
    super::{
        DialectError,
        in_stack::InStack,
        stack::{PackedStack, part_of},
        types::beside,
    },
    levels::{QuantType, block},
};
use crate::{
    config::To,
    model::Slot,
    source::{Catalog, StoredType, TensorInfo},
};

/// Tensors with the shapes that slices of them have, and tensors that are not sliced.
type SlicedParts<'c> = (
    Vec<(&'c TensorInfo, Vec<usize>)>,
    Vec<Option<&'c TensorInfo>>,
);

/// The stack that may have the weight of `slot`.
pub(super) fn stack(slot: &Slot, catalog: &Catalog) -> Result<Option<PackedStack>, DialectError> {
    let Some(place) = InStack::by_origin(slot, false) else {
        return Ok(None);
    };
    let Some(codes) = catalog.get(&place.stack) else {
        return Ok(None);
    };
    let each = slot.shape.iter().product::<usize>();
    let one = place.slot(1, slot);
    let find = |part: &str| catalog.get(&beside(&one, part));
    let bits = if codes.dtype == StoredType::I8 { 8 } else { 4 };
    let values = codes.bytes() as usize * 8 / bits;
    let experts = (each > 0 && values.is_multiple_of(each)).then(|| values / each);
    let (is_apart, (sliced, whole)): (bool, SlicedParts<'_>) =
        match (find("SCB"), find("weight.absmax")) {
            (Some(scales), _) if bits == 8 => {
                let rows = slot.shape[..1].to_vec();
                let sliced = vec![(codes, slot.shape.clone()), (scales, rows)];
                (true, (sliced, vec![find("weight_format")]))
            }
            (_, Some(absmax)) => {
                let scales = absmax.elements() as usize;
                let block = experts.and_then(|experts| block(experts * each, scales));
                let block = block.unwrap_or(usize::MAX);
                let (of_each, upper) = (each / block, find("weight.nested_absmax"));
                let is_apart = each.is_multiple_of(block)
                    && (upper.is_none() || of_each.is_multiple_of(nested::BLOCK));
                let size = codes.dtype.bits() as usize / 8;
                let mut sliced = vec![(codes, vec![each / 2 / size, 1]), (absmax, vec![of_each])];
                sliced.extend(upper.map(|upper| (upper, vec![of_each / nested::BLOCK])));
                let state = |levels: QuantType| {
                    find(&format!(
                        "weight.quant_state.bitsandbytes__{}",
                        levels.name()
                    ))
                };
                let tables = ["weight.quant_map", "weight.nested_quant_map"].map(find);
                let whole = QuantType::ALL.map(state).into_iter().chain(tables);
                (is_apart, (sliced, whole.collect()))
            }
            _ => return Ok(None),
        };
    let experts = experts.filter(|experts| place.nth < *experts);
    let experts = experts.ok_or_else(|| place.missing(slot, codes, To::BitsAndBytes.name()))?;
    let sliced = sliced.into_iter();
    let sliced = sliced.map(|(part, shape)| part_of(part, shape, experts, place.nth));
    let parts: Vec<TensorInfo> = sliced.chain(whole.into_iter().flatten().cloned()).collect();
    Ok(Some(PackedStack {
        slot: place.slot(experts, slot),
        matrix: is_apart.then_some(parts),
    }))
}
