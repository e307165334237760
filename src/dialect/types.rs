//! The names and types of the tensors of a weight.

use firebox_kernels::arith::float::DType;

use crate::{model::Slot, source::StoredType};

/// The type of dense values that are stored as `dtype`; `None` for types that no dense weight has. F64 is read as `f32`, rounded to the
/// nearest, which is what torch makes of it on the way to any narrower type too.
pub(crate) fn plain(dtype: StoredType) -> Option<DType> {
    match dtype {
        StoredType::F32 | StoredType::F64 => Some(DType::F32),
        StoredType::F16 => Some(DType::F16),
        StoredType::BF16 => Some(DType::Bf16),
        _ => None,
    }
}

/// The type of plain numbers in a file.
pub(crate) const fn dtype(float: DType) -> StoredType {
    match float {
        DType::F32 => StoredType::F32,
        DType::F16 => StoredType::F16,
        DType::Bf16 => StoredType::BF16,
    }
}

/// The path of a slot's module: its name without `.weight`.
pub(super) fn module(slot: &Slot) -> &str {
    slot.name.strip_suffix(".weight").unwrap_or(&slot.name)
}

/// The name of a tensor beside a weight: `scales` of `path.weight` is `path.scales`, `weight.absmax` of a weight `path` is
/// `path.absmax`, and `_blocks` of it is `path_blocks`.
pub(super) fn beside(slot: &Slot, part: &str) -> String {
    beside_name(&slot.name, part)
}

/// The same for the name of a weight.
pub(super) fn beside_name(weight: &str, part: &str) -> String {
    if part.starts_with('_') {
        return format!("{weight}{part}");
    }
    if let Some(module) = weight.strip_suffix(".weight") {
        return format!("{module}.{part}");
    }
    match part.strip_prefix("weight") {
        Some(rest) => format!("{weight}{rest}"),
        None => format!("{weight}.{part}"),
    }
}

/// Rows and columns of a slot; the rows of stacked matrices follow one another.
pub(super) fn matrix(slot: &Slot) -> [usize; 2] {
    match slot.shape[..] {
        [ref outer @ .., cols] => [outer.iter().product(), cols],
        [] => [1, 1],
    }
}

/// The shape of a tensor of the slot with this many rows and columns: experts are the outermost dimension of a stack.
pub(super) fn stacked(slot: &Slot, [rows, cols]: [usize; 2]) -> Vec<usize> {
    match slot.shape[..] {
        [experts, _, _] => vec![experts, rows / experts.max(1), cols],
        _ => vec![rows, cols],
    }
}
