//! Cutting a finished weight into parts of whole rows, where a device's allocations are smaller.

use burn::tensor::Bytes;
use firebox_kernels::format::Packed;

/// A packed weight, in parts of at most `largest` bytes.
pub(crate) fn cut_packed(packed: Packed, largest: Option<u64>) -> Vec<Packed> {
    match largest.and_then(|largest| packed.format.cut(packed.shape, largest)) {
        Some(parts) if parts.len() > 1 => parts.into_iter().map(|rows| packed.part(rows)).collect(),
        _ => vec![packed],
    }
}

/// The values of a dense weight, in parts of at most `largest` bytes; rows of `row_bytes` stay whole.
pub(crate) fn cut_dense(bytes: Bytes, row_bytes: usize, largest: Option<u64>) -> Vec<Bytes> {
    let largest = largest.and_then(|largest| usize::try_from(largest).ok());
    // The plan has refused rows that are larger.
    let rows = (largest.unwrap_or(usize::MAX) / row_bytes.max(1)).max(1);
    let part_bytes = rows * row_bytes;
    if bytes.len() <= part_bytes {
        return vec![bytes];
    }
    let parts = bytes.chunks(part_bytes);
    parts
        .map(|part| Bytes::from_bytes_vec(part.to_vec()))
        .collect()
}
