//! A plan that could not be carried out.

use crossbeam_channel::{RecvError, SendError};
use firebox_kernels::format::{Format, FormatError};

use crate::{
    dialect::DialectError,
    observe::{Failure, Stopped},
    source::SourceError,
};

/// A sink that could not take a weight.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SinkError {
    /// The sink refused the weight.
    #[error("{tensor}: could not be placed: {reason}")]
    Refused {
        /// The tensor.
        tensor: String,
        /// Why the sink refused it.
        reason: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The sink read, compared or packed by itself, and that failed. [`run`](super::run()) returns this error as it is.
    #[error(transparent)]
    Pipeline(Box<PipelineError>),
}

impl SinkError {
    /// A sink refuses `tensor` because of `reason`.
    pub fn new(
        tensor: impl Into<String>,
        reason: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Refused {
            tensor: tensor.into(),
            reason: reason.into(),
        }
    }
}

impl From<PipelineError> for SinkError {
    fn from(error: PipelineError) -> Self {
        match error {
            PipelineError::Sink(error) => error,
            error => Self::Pipeline(Box::new(error)),
        }
    }
}

impl From<SinkError> for PipelineError {
    fn from(error: SinkError) -> Self {
        match error {
            SinkError::Pipeline(error) => *error,
            error @ SinkError::Refused { .. } => Self::Sink(error),
        }
    }
}

/// A plan that could not be carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PipelineError {
    /// A read failed.
    #[error("{tensor}: {source}")]
    Read {
        /// The tensor.
        tensor: String,
        /// Why.
        source: SourceError,
    },
    /// The method refused a weight that the plan had accepted.
    #[error("{tensor}: {source}")]
    Format {
        /// The tensor.
        tensor: String,
        /// Why.
        source: FormatError,
    },
    /// The plan says that a weight stays packed, and the checkpoint has it dense.
    #[error(
        "{tensor}: is to stay packed as {format}, and the checkpoint has it dense; make the plan again"
    )]
    NotPacked {
        /// The tensor.
        tensor: String,
        /// The format that the plan names.
        format: Format,
    },
    /// The method's packer makes another format or shape than its method had told the plan.
    #[error(
        "{tensor}: would be packed as {format} of {shape:?}, which is not what its method had planned; make the plan again"
    )]
    NotAsPlanned {
        /// The tensor.
        tensor: String,
        /// The format that the packer makes.
        format: Format,
        /// The shape that the packer makes.
        shape: [usize; 2],
    },
    /// A packed weight of the checkpoint contradicts its own configuration.
    #[error(transparent)]
    Dialect(#[from] DialectError),
    /// The sink refused.
    #[error(transparent)]
    Sink(SinkError),
    /// An observer asked to stop.
    #[error("cancelled at {at}, {done} of {total} tensors were finished")]
    Cancelled {
        /// The tensor of the event.
        at: String,
        /// Tensors finished before.
        done: usize,
        /// Tensors of the plan.
        total: usize,
    },
    /// An observer panicked, or could not do its work.
    #[error("an observer failed when it was told `{event}` of {at}: {reason}")]
    Observer {
        /// [`Event::kind`](super::Event::kind).
        event: &'static str,
        /// The tensor of the event.
        at: String,
        /// The reason it gave.
        reason: String,
    },
    /// The device failed while it packed a weight; it may be out of memory.
    #[error("{tensor}: the device failed: {reason}")]
    Device {
        /// The tensor.
        tensor: String,
        /// The message of the device.
        reason: String,
    },
    /// The device has other bytes than were sent to it.
    #[error(
        "{tensor}: arrived on the device with the checksum {found:#x} and was sent with {sent:#x}; its driver loses writes: try another version of it, or another target"
    )]
    Lost {
        /// The tensor.
        tensor: String,
        /// The checksum of the bytes that were sent.
        sent: u32,
        /// The checksum of the bytes that arrived.
        found: u32,
    },
    /// The system had no more memory, or a limit of the process allows no more.
    #[error(
        "{tensor}: {bytes} bytes of memory could not be had{}; raise the limit (`ulimit -v`, `ulimit -d`, that of a container), read \
         less ahead, quantize further, or stream from a disk",
        left.map_or(String::new(), |left| format!(", the limits of this process leave {left}"))
    )]
    Memory {
        /// The tensor that they were for.
        tensor: String,
        /// Bytes that were asked for.
        bytes: u64,
        /// Bytes that the limits of the process leave, where it has any.
        left: Option<u64>,
    },
    /// Worker threads could not be started.
    #[error("could not start {count} worker threads: {reason}")]
    Workers {
        /// Threads asked for.
        count: usize,
        /// Why not.
        reason: String,
    },
}

impl From<Stopped> for PipelineError {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Cancelled { at, done, total } => Self::Cancelled { at, done, total },
            Stopped::Failed(failure) => failure.into(),
        }
    }
}

impl From<Failure> for PipelineError {
    fn from(Failure { event, at, reason }: Failure) -> Self {
        Self::Observer { event, at, reason }
    }
}

/// Why a thread of the pipeline ends early.
pub(super) enum Stop {
    /// Its receiver is gone: that thread has failed or was cancelled.
    Abandoned,
    Failed(PipelineError),
}

impl<T> From<SendError<T>> for Stop {
    fn from(_: SendError<T>) -> Self {
        Self::Abandoned
    }
}

impl From<RecvError> for Stop {
    fn from(_: RecvError) -> Self {
        Self::Abandoned
    }
}

impl From<PipelineError> for Stop {
    fn from(error: PipelineError) -> Self {
        Self::Failed(error)
    }
}
