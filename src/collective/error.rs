//! What can go wrong between ranks.

use core::time::Duration;

/// An operation over several ranks that failed, or that cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CollectiveError {
    /// Some rank did not come.
    #[error(
        "rank {rank} of {size} waited {} s for the others to {operation}, and not all of them came; look whether one of them has ended or hangs",
        waited.as_secs_f64()
    )]
    Late {
        /// This rank.
        rank: usize,
        /// How many there are.
        size: usize,
        /// What they were to do together.
        operation: &'static str,
        /// The deadline.
        waited: Duration,
    },
    /// The process of a rank ended without a word.
    #[error(
        "rank {peer} has ended, so that rank {rank} of {size} cannot {operation} with it; look for the message of that rank, or for a system that ran out of memory"
    )]
    Gone {
        /// The rank that ended.
        peer: usize,
        /// This rank.
        rank: usize,
        /// How many there are.
        size: usize,
        /// What they were to do together.
        operation: &'static str,
    },
    /// Another rank failed, and said why.
    #[error("rank {peer} failed: {reason}")]
    Peer {
        /// The rank that failed.
        peer: usize,
        /// What it said.
        reason: String,
    },
    /// Ranks do not do the same.
    #[error(
        "rank {rank} gave {found} values to be added up, and rank {peer} {wanted}; all ranks have to run the same program with the same arguments"
    )]
    Length {
        /// The rank with another number.
        rank: usize,
        /// Its values.
        found: usize,
        /// The rank that it is compared with.
        peer: usize,
        /// The values of that one.
        wanted: usize,
    },
    /// What another rank sent cannot be read.
    #[error(
        "rank {peer} sent something else than was asked for: {reason}; all ranks have to run the same version with the same arguments"
    )]
    Unreadable {
        /// The rank that sent it.
        peer: usize,
        /// What is wrong.
        reason: String,
    },
    /// The library of messages failed.
    #[error("MPI could not {operation}: {reason}")]
    Mpi {
        /// What was to be done.
        operation: &'static str,
        /// What it says.
        reason: String,
    },
    /// A card, or the library that connects cards, failed.
    #[error("NCCL could not {operation}: {reason}")]
    Nccl {
        /// What was to be done.
        operation: &'static str,
        /// What it says.
        reason: String,
    },
    /// The ranks that were started cannot talk to each other.
    #[error("{needs} needs messages between {size} ranks: {reason}")]
    Unavailable {
        /// What was asked for.
        needs: String,
        /// How many ranks there are.
        size: usize,
        /// Why there are none, and what to do.
        reason: &'static str,
    },
}
