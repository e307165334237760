//! How much of a packed weight may be dense at a time while it is multiplied.

use core::ops::Range;

/// Large enough that a product of these rows keeps a device busy, small beside any model.
const BYTES: usize = 64 << 20;

/// The rows of a weight `[o, i]` of `size` bytes each, cut so that each part is within the scratch. Rows
/// alone may be larger than that.
pub(super) fn rows([o, i]: [usize; 2], size: usize) -> impl Iterator<Item = Range<usize>> {
    let step = (BYTES / (i * size).max(1)).max(1);
    (0..o)
        .step_by(step)
        .map(move |first| first..o.min(first + step))
}
