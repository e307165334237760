//! The part of a model that one of several ranks multiplies by.

use core::ops::Range;

/// The rows and columns of a weight that a rank multiplies by; weights that are not named are whole on every rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightCut {
    /// The slot of the whole weight.
    pub name: String,
    /// Its rows, one range after another: output features.
    pub rows: Vec<Range<usize>>,
    /// Its columns: input features, whose products are summed over the ranks. `None` for all.
    pub cols: Option<Range<usize>>,
}

/// A model that cannot be cut for so many ranks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CutError {
    /// Heads or features do not divide.
    #[error("{module}: {count} {what} do not divide among {ranks} ranks")]
    Uneven {
        /// The module.
        module: String,
        /// `query heads`.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// The ranks.
        ranks: usize,
    },
    /// Key heads neither divide among the ranks nor are each the same number of ranks'.
    #[error(
        "{module}: {count} key heads neither divide among {ranks} ranks nor have the same number of ranks each"
    )]
    KeyHeads {
        /// The module.
        module: String,
        /// How many there are.
        count: usize,
        /// The ranks.
        ranks: usize,
    },
    /// The architecture says nothing about its matrices.
    #[error("this architecture does not say how its matrices are cut")]
    Unknown,
}
