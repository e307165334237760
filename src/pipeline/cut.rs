//! Cutting a finished weight into parts of whole rows, where a device's allocations are smaller.

use burn::tensor::Bytes;
use firebox_kernels::{
    arith::pack,
    format::{Format, Half, Packed},
};

use super::dense::Dense;
use crate::quant::Layout;

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

/// Halves `[rows, columns]` as words, in parts of at most `largest` bytes. The memory of a weight that is whole stays where
/// it is, unless a word may not begin there.
pub(crate) fn cut_halves(
    half: Half,
    dense: Dense,
    shape: [usize; 2],
    largest: Option<u64>,
) -> Vec<(Layout, Bytes)> {
    let (format, [rows, cols]) = (Format::Half(half), shape);
    let (_, data) = dense.into_data();
    let bytes = data.into_bytes();
    let part = |rows, bytes| {
        let shape = [rows, cols];
        (Layout { format, shape }, bytes)
    };
    let copied = |bytes: &[u8]| Bytes::from_elems(pack::from_bytes(bytes));
    match largest.and_then(|largest| format.cut(shape, largest)) {
        Some(parts) if parts.len() > 1 => {
            let row_bytes = cols * half.dtype().size();
            let parts = parts.into_iter().map(|rows| {
                let bytes = &bytes[rows.start * row_bytes..rows.end * row_bytes];
                part(rows.len(), copied(bytes))
            });
            parts.collect()
        }
        _ => {
            let whole = |of: usize| of.is_multiple_of(size_of::<u32>());
            let words = whole(bytes.len()) && whole(bytes.as_ptr().addr());
            vec![part(rows, if words { bytes } else { copied(&bytes) })]
        }
    }
}
