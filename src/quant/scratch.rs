//! How much of a packed weight may be dense at a time while it is multiplied.

use core::ops::Range;

/// Bytes of dense rows at a time: enough rows to keep a device busy with their product, and few beside any model.
pub(crate) const UNPACKED_BYTES: usize = 64 << 20;

/// The rows of a weight `[o, i]` of `size` bytes a value, cut so that each part is at most [`UNPACKED_BYTES`], or one row.
pub(super) fn rows([o, i]: [usize; 2], size: usize) -> impl Iterator<Item = Range<usize>> {
    let step = (UNPACKED_BYTES / (i * size).max(1)).max(1);
    (0..o)
        .step_by(step)
        .map(move |first| first..o.min(first + step))
}
