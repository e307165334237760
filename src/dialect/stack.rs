//! Stacks: the matrices of all experts in one packed tensor, of which a slot takes one.
//!
//! ```text
//! codes    [experts, out, words]      ─┐
//! scales   [experts, out, groups]      ├─ the matrix of one expert is a range of each
//! …                                   ─┘
//! ```

use super::{DialectError, in_stack::InStack, types::beside};
use crate::{
    model::Slot,
    source::{Catalog, TensorInfo},
};

/// A packed stack that the checkpoint has.
#[derive(Debug)]
pub struct PackedStack {
    /// The slot of all of it.
    pub(super) slot: Slot,
    /// The tensors of the matrix that was asked for, `None` where it shares scales with others.
    pub(super) matrix: Option<Vec<TensorInfo>>,
}

/// A stack whose tensors have a matrix for each expert; `parts` are the ends of their names, codes first.
pub(super) fn by_parts(
    dialect: &'static str,
    parts: &[&str],
    slot: &Slot,
    place: Option<InStack>,
    catalog: &Catalog,
) -> Result<Option<PackedStack>, DialectError> {
    let Some(place) = place else {
        return Ok(None);
    };
    let one = place.slot(1, slot);
    let mut names = parts.iter().map(|part| match *part {
        "weight" => one.name.clone(),
        part => beside(&one, part),
    });
    let codes = names.next().and_then(|name| catalog.get(&name));
    // A dense stack is made of pieces.
    let Some(codes) = codes.filter(|codes| super::plain(codes.dtype).is_none()) else {
        return Ok(None);
    };
    // A dense stack beside the packed one is refused by the dialect.
    let own = (*codes.name != *one.name).then(|| one.name.clone());
    let others = names.chain(own).filter_map(|name| catalog.get(&name));
    let matrix = [codes].into_iter().chain(others).map(|tensor| {
        match tensor.shape[..] {
            [experts, ref matrix @ ..] if matrix.len() >= 2 && place.nth < experts => {
                Ok(part_of(tensor, matrix.to_vec(), experts, place.nth))
            }
            // One scale for all.
            _ if tensor.elements() == 1 => Ok(tensor.clone()),
            _ => Err(place.missing(slot, tensor, dialect)),
        }
    });
    Ok(Some(PackedStack {
        slot: place.slot(codes.shape.first().copied().unwrap_or(0), slot),
        matrix: Some(matrix.collect::<Result<_, _>>()?),
    }))
}

/// The part `nth` of the equal parts of a tensor, one for each expert, and its shape.
pub(super) fn part_of(
    tensor: &TensorInfo,
    shape: Vec<usize>,
    experts: usize,
    nth: usize,
) -> TensorInfo {
    let bytes = tensor.bytes() / experts.max(1) as u64;
    let start = tensor.range.start + nth as u64 * bytes;
    let mut part = tensor.clone();
    part.shape = shape;
    part.range = start..start + bytes;
    part
}
