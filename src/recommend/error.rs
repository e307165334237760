//! Why nothing is recommended.

use crate::{config::Bytes, error::Error, plan::Lacking};

/// A model for which nothing can be recommended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecommendError {
    /// The model cannot be planned at all.
    #[error(transparent)]
    Plan(#[from] Error),
    /// Nothing that is worth recommending fits.
    #[error(
        "nothing of {tried} configurations fits; the smallest needs {} of the memory of {}, which has {}",
        Bytes(least.needed), least.place, Bytes(least.memory)
    )]
    NothingFits {
        /// How many configurations were planned.
        tried: usize,
        /// What the one that lacks least lacks.
        least: Lacking,
    },
    /// A task that no run can have.
    #[error("{what} is {found}, and has to be {expected}")]
    Task {
        /// Of what.
        what: &'static str,
        /// Its value.
        found: usize,
        /// The values that it may have.
        expected: String,
    },
}
