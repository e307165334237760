//! How a model is divided among ranks that compute together.

use core::ops::Range;

/// How a model is divided among ranks that compute together.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Divided {
    /// Each has some layers: those of rank 0, those of rank 1, and so on. What others have is empty in the module.
    Layers(Vec<Range<usize>>),
    /// Each has the part of [`Architecture::of_rank`](super::Architecture::of_rank).
    Tensor,
    /// Each has some bytes of every matrix, which brings the others itself.
    Shard,
}
