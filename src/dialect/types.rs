//! The types of dense values, and their names in files.

use firebox_kernels::arith::float::DType;

use crate::source::StoredType;

/// The type of dense values that are stored as `dtype`; `None` for types that no dense weight has.
pub(crate) fn plain(dtype: StoredType) -> Option<DType> {
    match dtype {
        StoredType::F32 => Some(DType::F32),
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
