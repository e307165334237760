//! Sums and exchanges between the ranks of one computation.
//!
//! ```text
//! MpiRanks      processes, on one machine or several: whatever mpirun or srun started (feature `mpi`)
//! NcclRanks     the same with NVIDIA's cards, whose buffers go from card to card (feature `nccl`)
//! ThreadRanks   threads of one process, one for each of its devices
//! ```
//!
//! All buffers are host memory; values of a device come and go through the host, so that every target can take part.

mod error;
mod exchange;
#[cfg(feature = "nccl")]
mod nccl;
#[cfg(feature = "mpi")]
mod processes;
mod tensors;
mod threads;

use core::{fmt::Debug, time::Duration};

pub use error::CollectiveError;
#[cfg(feature = "nccl")]
use exchange::all;
pub(crate) use exchange::{any, gather_json, share_json};
#[cfg(feature = "nccl")]
pub use nccl::NcclRanks;
#[cfg(feature = "mpi")]
pub use processes::MpiRanks;
pub use tensors::Together;
pub use threads::ThreadRanks;

/// What the ranks of one computation do together.
///
/// All ranks call the same operations in the same order; an operation returns when all of them have called it. A rank that fails says so
/// ([`fail`](Self::fail)), and the others get [`CollectiveError::Peer`] from the operation in which they wait, or from their next one. A
/// rank that ends without a word, or does not come, gives the others an error within the deadline of the operation. After an error all
/// later operations fail with it.
pub trait Collective: Debug + Send + Sync {
    /// The number of this rank, from 0.
    fn rank(&self) -> usize;

    /// How many ranks there are.
    fn size(&self) -> usize;

    /// Adds up `values` over all ranks, which give as many each. Every rank gets the same bits.
    ///
    /// # Errors
    ///
    /// [`CollectiveError`]; the values are as they were.
    fn all_reduce_f32(&self, values: &mut [f32]) -> Result<(), CollectiveError>;

    /// The bytes of every rank, in the order of the ranks. Ranks may give different numbers of them.
    ///
    /// # Errors
    ///
    /// [`CollectiveError`].
    fn all_gather_bytes(&self, mine: &[u8]) -> Result<Vec<Vec<u8>>, CollectiveError>;

    /// The bytes of the rank `from`; those that other ranks give do not matter.
    ///
    /// # Errors
    ///
    /// [`CollectiveError`].
    fn broadcast_bytes(&self, bytes: Vec<u8>, from: usize) -> Result<Vec<u8>, CollectiveError>;

    /// Waits until all ranks are here, `deadline` at most.
    ///
    /// # Errors
    ///
    /// [`CollectiveError`].
    fn barrier(&self, deadline: Duration) -> Result<(), CollectiveError>;

    /// Tells the other ranks that this one fails, and why. Where an operation has failed already, they know.
    fn fail(&self, reason: &str);
}
