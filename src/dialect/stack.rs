//! Stacks: the matrices of all experts in one packed tensor, of which a slot takes one.
//!
//! ```text
//! codes    [experts, out, words]      ─┐
//! scales   [experts, out, groups]      ├─ the matrix of one expert is a range of each
//! …                                   ─┘
//! ```

use super::{Adopt, Dialect, DialectError, in_stack::InStack, types::beside};
use crate::{
    model::{Role, Slot},
    source::{Catalog, TensorInfo},
};

/// The packed weight that the checkpoint has for `slot`, whole or as a matrix of a stack; `None` where the weight is dense
/// or missing.
///
/// # Errors
///
/// [`DialectError`] when configuration and tensors disagree.
pub(crate) fn adopt(
    dialect: &dyn Dialect,
    slot: &Slot,
    catalog: &Catalog,
) -> Result<Option<Adopt>, DialectError> {
    let name = match &slot.from[..] {
        [origin] if origin.is_whole() => &origin.tensor,
        // All matrices of a stack, or a weight of the cache.
        _ => &slot.name,
    };
    let whole = Slot::new(&**name, slot.shape.clone(), slot.role);
    let adopted = dialect.adopt(&whole, catalog)?;
    if adopted.is_some() {
        return Ok(adopted);
    }
    let Some((place, parts)) = parts(dialect, slot, catalog) else {
        return Ok(None);
    };
    let parts = parts.into_iter();
    let parts: Vec<TensorInfo> = parts
        .map(|part| part_of(part, slot, place.nth, dialect))
        .collect::<Result<_, _>>()?;
    let one = Slot::new(place.stack, slot.shape.clone(), slot.role);
    dialect.adopt(&one, &parts.into_iter().collect())
}

/// The slot of the packed stack that has the weight of `slot`.
pub(crate) fn stack_of(dialect: &dyn Dialect, slot: &Slot, catalog: &Catalog) -> Option<Slot> {
    let (place, parts) = parts(dialect, slot, catalog)?;
    let experts = parts.first()?.shape.first()?;
    let shape = [&[*experts], &slot.shape[..]].concat();
    Some(Slot::new(place.stack, shape, Role::Expert))
}

/// The place of a slot in a packed stack that the checkpoint has, and the tensors of the stack, codes first.
fn parts<'c>(
    dialect: &dyn Dialect,
    slot: &Slot,
    catalog: &'c Catalog,
) -> Option<(InStack, Vec<&'c TensorInfo>)> {
    let place = dialect.in_stack(slot)?;
    let stack = Slot::new(&*place.stack, slot.shape.clone(), slot.role);
    let mut names = dialect.stack_parts().iter().map(|part| match *part {
        "weight" => stack.name.clone(),
        part => beside(&stack, part),
    });
    let codes = catalog.get(&names.next()?)?;
    // A dense stack beside the packed one is refused by the dialect.
    let own = (*codes.name != *stack.name).then(|| stack.name.clone());
    let others = names.chain(own).filter_map(|name| catalog.get(&name));
    let parts: Vec<&TensorInfo> = [codes].into_iter().chain(others).collect();
    // A dense stack is made of pieces.
    (super::plain(codes.dtype).is_none()).then_some((place, parts))
}

/// The matrix `nth` of a tensor that has one for each expert.
fn part_of(
    tensor: &TensorInfo,
    slot: &Slot,
    nth: usize,
    dialect: &dyn Dialect,
) -> Result<TensorInfo, DialectError> {
    match tensor.shape[..] {
        [experts, ref matrix @ ..] if matrix.len() >= 2 && nth < experts => {
            let bytes = tensor.bytes() / experts as u64;
            let start = tensor.range.start + nth as u64 * bytes;
            let mut part = tensor.clone();
            part.shape = matrix.to_vec();
            part.range = start..start + bytes;
            Ok(part)
        }
        // One scale for all.
        _ if tensor.elements() == 1 => Ok(tensor.clone()),
        _ => Err(DialectError::NoExpert {
            slot: slot.name.clone(),
            nth,
            tensor: tensor.name.to_string(),
            found: tensor.shape.clone(),
            dialect: dialect.name(),
        }),
    }
}
