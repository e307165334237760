//! Finished weights, whole or some rows of one.

use firebox_kernels::format::Packed;

use super::dense::{Dense, Values};
use crate::quant::PackedWeight;

/// A finished weight.
#[derive(Debug, Clone)]
pub enum Finished {
    /// Dense values in the tensor's own order, in host memory.
    Dense(Dense),
    /// Packed words in host memory.
    Packed(Packed),
    /// Packed on the device of [`Settings::device`](super::Settings), in parts of whole rows that are
    /// no larger than [`Settings::allocation_max`](super::Settings).
    Placed(Vec<PackedWeight>),
    /// The bytes of a tensor that is carried over, as they are stored.
    Carried(Vec<u8>),
    /// What one of several ranks has of the bytes of a weight: the ranges of
    /// [`RankPart::bytes`](crate::plan::RankPart::bytes).
    Share(WeightShare),
}

/// Bytes of the buffers of a weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightShare {
    /// Of its codes, or of its dense values.
    pub values: Vec<u8>,
    /// Of its scales.
    pub scales: Vec<u8>,
}

/// Some rows of a weight, finished, for a [`RowSink`](super::RowSink).
#[derive(Debug, Clone)]
pub enum RowBatch {
    /// Dense values.
    Dense(Values),
    /// Packed words.
    Words {
        /// Number of rows.
        rows: usize,
        /// Their words.
        words: Vec<u32>,
    },
    /// Bytes of a tensor that is carried over, as they are stored.
    Carried(Vec<u8>),
}
