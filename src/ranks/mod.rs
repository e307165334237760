//! Several processes that hold one model together: which one this is, what each holds and reads, and how they agree.
//!
//! ```text
//! launcher ─► ranks ─► meeting ─► plan ─► the rank's part of it ─► pipeline ─► what the rank keeps ─► sink
//! ```
//!
//! The processes are started by `torchrun --no-python`, `mpirun`, `srun` or by hand. Their numbers come from the options
//! `--rank` and `--world-size`, or from the first of these that is set:
//!
//! | launcher | variables |
//! |---|---|
//! | torchrun, accelerate | `RANK`, `WORLD_SIZE`, `LOCAL_RANK` |
//! | Open MPI | `OMPI_COMM_WORLD_RANK`, `_SIZE`, `_LOCAL_RANK` |
//! | MPICH, Intel MPI | `PMI_RANK`, `PMI_SIZE`, `MPI_LOCALRANKID` |
//! | MVAPICH | `MV2_COMM_WORLD_RANK`, `_SIZE`, `_LOCAL_RANK` |
//! | Slurm, in a step of `srun` | `SLURM_PROCID`, `SLURM_STEP_NUM_TASKS` or `SLURM_NTASKS`, `SLURM_LOCALID` |
//!
//! Two launchers that disagree are an error. A step of Slurm is not asked where another launcher is: it may have started that.
//! The number on the machine, modulo the devices of the target, chooses the device.
//!
//! How each mode divides a model, and what that costs, is in [the longer text](crate::_docs::ranks).

mod error;
mod launcher;
mod meeting;
mod messages;
mod reads;
mod shard;
mod sink;
mod stages;
mod tensor;

pub use error::RankError;
pub use launcher::started;
pub(crate) use launcher::{Launched, launched};
pub(crate) use meeting::Meeting;
pub(crate) use messages::check_messages;
pub(crate) use reads::ReadLog;
pub use reads::ReadRange;
pub(crate) use shard::sharded;
pub use shard::share_of;
pub(crate) use sink::RankSink;
pub use sink::WeightDigest;
pub(crate) use stages::keep_stage;
pub(crate) use tensor::keep_slices;
