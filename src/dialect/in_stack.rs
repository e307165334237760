//! The place of one matrix in a stack of them.

use crate::model::Slot;

/// A place in a stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InStack {
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
}
