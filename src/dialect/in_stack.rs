//! The place of one matrix in a stack of them.

use super::DialectError;
use crate::{
    model::{Role, Slot},
    source::TensorInfo,
};

/// A place in a stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct InStack {
    /// The name of the stack's weight.
    pub(super) stack: String,
    /// The number of the matrix.
    pub(super) nth: usize,
}

impl InStack {
    /// The place that the slot's only origin names, where the origin is stored `transposed` or not, as said.
    pub(super) fn by_origin(slot: &Slot, transposed: bool) -> Option<Self> {
        let ([origin], &[out, cols]) = (&slot.from[..], &slot.shape[..]) else {
            return None;
        };
        let rows = origin.rows.as_ref()?;
        let each = if transposed { cols } else { out };
        let is_matrix = rows.len() == each && each > 0 && rows.start.is_multiple_of(each);
        (is_matrix && origin.transposed == transposed).then(|| Self {
            stack: origin.tensor.clone(),
            nth: rows.start / each,
        })
    }

    /// The slot of the stack of `experts` matrices, each of the shape of `one`.
    pub(super) fn slot(&self, experts: usize, one: &Slot) -> Slot {
        let shape = [&[experts], &one.shape[..]].concat();
        Slot::new(&*self.stack, shape, Role::Expert)
    }

    /// The error of a tensor that has no matrix for this place, which is that of `slot`.
    pub(super) fn missing(
        &self,
        slot: &Slot,
        tensor: &TensorInfo,
        dialect: &'static str,
    ) -> DialectError {
        DialectError::NoExpert {
            slot: slot.name.clone(),
            nth: self.nth,
            tensor: tensor.name.to_string(),
            found: tensor.shape.clone(),
            dialect,
        }
    }
}
