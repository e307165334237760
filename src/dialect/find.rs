//! The packed weight that a checkpoint has for a slot: a tensor of its name, or a matrix of a stack.

use super::{Adopt, Dialect, DialectError, stack::PackedStack};
use crate::{model::Slot, source::Catalog};

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
    let Some(PackedStack {
        slot: stack,
        matrix: Some(parts),
    }) = dialect.stack(slot, catalog)?
    else {
        return Ok(None);
    };
    let one = Slot::new(stack.name, slot.shape.clone(), slot.role);
    let adopted = dialect.adopt(&one, &parts.into_iter().collect())?;
    Ok(adopted.map(|adopt| adopt.of_stack(stack.shape[0])))
}

/// The slot of the packed stack that has the weight of `slot`.
///
/// # Errors
///
/// [`DialectError`] for a stack without that matrix.
pub(crate) fn stack_of(
    dialect: &dyn Dialect,
    slot: &Slot,
    catalog: &Catalog,
) -> Result<Option<Slot>, DialectError> {
    Ok(dialect.stack(slot, catalog)?.map(|stack| stack.slot))
}
