//! Carrying out a plan: tiles are read ahead of the workers, converted, and placed.
//!
//! ```text
//! reader thread ──tiles──► converter (worker pool) ──finished weights──► sink
//!      ▲                        │
//!      └──── byte budget ◄──────┘ a tile's bytes are given back as soon as it is converted
//! ```
//!
//! Tensors are cut into tiles of whole rows. One tensor is converted at a time, each tile by all
//! workers: memory beside the finished weights is the budget plus scratch, whatever the model, and a
//! single huge tensor keeps every core busy. Tiles of the next tensors are read meanwhile.
//!
//! A cancel or a failure takes effect when the read under way returns.

mod budget;

mod staging;

mod read;

mod convert;
mod upload;

mod events;

pub use convert::{Dense, Finished};
pub(crate) use events::Observers;
pub use events::{Event, Flow, Observer};
pub(crate) use upload::upload;

use std::time::{Duration, Instant};

use burn::tensor::Device;
use crossbeam_channel::{Receiver, bounded};
use firebox_kernels::{error::FormatError, format::Format};

use self::{
    budget::Budget,
    read::{Message, read},
};
use crate::{
    dialect::DialectError,
    plan::{Plan, Step},
    source::{Source, SourceError},
};

/// What becomes of each finished weight: a module, a file, host memory, a ring.
pub trait Sink {
    /// Takes one finished weight. Called in the order of the plan, from the thread that runs the
    /// pipeline.
    ///
    /// # Errors
    ///
    /// Whatever stops the load; nothing more is read after it.
    fn place(&mut self, step: &Step, weight: Finished) -> Result<(), SinkError>;
}

/// A sink that could not take a weight.
#[derive(Debug, thiserror::Error)]
#[error("{tensor}: could not be placed: {reason}")]
pub struct SinkError {
    /// The tensor.
    pub tensor: String,
    /// Why not.
    pub reason: Box<dyn std::error::Error + Send + Sync>,
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
    /// The method's packer makes something else than the method had told the plan.
    #[error(
        "{tensor}: would be packed as {format} of {shape:?}, which is not what its method had planned"
    )]
    NotAsPlanned {
        /// The tensor.
        tensor: String,
        /// What would be made.
        format: Format,
        /// Of this shape.
        shape: [usize; 2],
    },
    /// A packed weight of the checkpoint is not what it says.
    #[error(transparent)]
    Dialect(#[from] DialectError),
    /// The sink refused.
    #[error(transparent)]
    Sink(#[from] SinkError),
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
    /// The device failed while it packed a weight, out of memory for example.
    #[error("{tensor}: the device failed: {reason}")]
    Device {
        /// The tensor.
        tensor: String,
        /// What it says.
        reason: String,
    },
    /// The device has other bytes than were sent to it.
    #[error(
        "{tensor}: arrived on the device with the checksum {found:#x} and was sent with {sent:#x}; its driver loses writes: try another version of it, or another target"
    )]
    Lost {
        /// The tensor.
        tensor: String,
        /// Of what was sent.
        sent: u32,
        /// Of what is there.
        found: u32,
    },
    /// No worker threads could be had.
    #[error("could not start {count} worker threads: {reason}")]
    Workers {
        /// Threads asked for.
        count: usize,
        /// Why not.
        reason: String,
    },
}

/// How to carry out a plan.
#[derive(Debug)]
pub struct Settings<'a> {
    /// Threads that convert.
    pub workers: usize,
    /// Bytes of source weights in memory at once. A tile that cannot be split further passes alone.
    pub in_flight_bytes_max: u64,
    /// Where weights are packed, by methods that a device has; on the host if `None`.
    pub device: Option<&'a Device>,
    /// Bytes of the largest allocation on that device.
    pub allocation_max: Option<u64>,
    /// Told of every event.
    pub observer: &'a dyn Observer,
}

impl Settings<'_> {
    /// The threads that convert.
    pub(crate) fn pool(&self) -> Result<rayon::ThreadPool, PipelineError> {
        let count = self.workers.max(1);
        rayon::ThreadPoolBuilder::new()
            .num_threads(count)
            .thread_name(|index| format!("firebox-convert-{index}"))
            .build()
            .map_err(|error| PipelineError::Workers {
                count,
                reason: error.to_string(),
            })
    }
}

/// Where the time of one tensor went.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Timing {
    /// Bytes read: more than the tensor has where a format needs to see it twice.
    pub bytes: u64,
    /// Reading its bytes, which overlaps with converting earlier tensors.
    pub read: Duration,
    /// Converting.
    pub convert: Duration,
    /// Placing.
    pub place: Duration,
}

/// Carries out `plan`; timings are in the order of its steps.
///
/// # Errors
///
/// [`PipelineError`]. Reading has stopped when it is returned, and every thread has ended.
pub fn run(
    plan: &Plan,
    source: &dyn Source,
    sink: &mut dyn Sink,
    settings: &Settings<'_>,
) -> Result<Vec<Timing>, PipelineError> {
    let workers = settings.pool()?;
    let budget = Budget::new(settings.in_flight_bytes_max);
    std::thread::scope(|scope| {
        // The budget bounds the bytes in flight; this bounds the messages of tensors that have none.
        let (send, receive) = bounded(MESSAGES_IN_FLIGHT_MAX);
        // Wakes a reader that waits for bytes, should this thread leave early.
        let _closing = budget.close_on_drop();
        std::thread::Builder::new()
            .name("firebox-read".to_owned())
            .spawn_scoped(scope, || read(plan, source, settings, &budget, send))
            .map_err(|error| PipelineError::Workers {
                count: 1,
                reason: error.to_string(),
            })?;
        Run {
            plan,
            sink,
            settings,
            workers,
            timings: Vec::new(),
        }
        .drain(receive)
    })
}

const MESSAGES_IN_FLIGHT_MAX: usize = 16;

/// The thread that converts and places.
struct Run<'a> {
    plan: &'a Plan,
    sink: &'a mut dyn Sink,
    settings: &'a Settings<'a>,
    workers: rayon::ThreadPool,
    timings: Vec<Timing>,
}

impl Run<'_> {
    fn drain(mut self, messages: Receiver<Message<'_>>) -> Result<Vec<Timing>, PipelineError> {
        for step in &self.plan.steps {
            self.tensor(step, || {
                messages
                    .recv()
                    .expect("the reader ends every tensor or fails")
            })?;
        }
        Ok(self.timings)
    }

    fn tensor<'t>(
        &mut self,
        step: &Step,
        next: impl Fn() -> Message<'t>,
    ) -> Result<(), PipelineError> {
        self.tell(&Event::Started { step })?;
        let mut converter = match next() {
            Message::Begin(converter) => converter,
            Message::Failed(error) => return Err(error),
            Message::Tile(_) | Message::End => unreachable!("the reader begins a tensor first"),
        };
        let mut timing = Timing::default();
        loop {
            let tile = match next() {
                Message::Tile(tile) => tile,
                Message::Failed(error) => return Err(error),
                Message::End => break,
                Message::Begin(_) => unreachable!("the reader ends a tensor before the next"),
            };
            let (bytes, seconds) = (tile.bytes().len() as u64, tile.seconds);
            timing.bytes += bytes;
            timing.read += seconds;
            self.tell(&Event::Read {
                step,
                bytes,
                seconds,
            })?;
            let (fed, seconds) = timed(|| converter.feed(step, tile, &self.workers));
            fed?;
            timing.convert += seconds;
        }

        let (finished, seconds) = timed(|| self.workers.install(|| converter.finish(step)));
        let finished = finished?;
        timing.convert += seconds;
        self.tell(&Event::Packed {
            step,
            seconds: timing.convert,
        })?;

        let (placed, seconds) = timed(|| self.sink.place(step, finished));
        placed?;
        timing.place = seconds;
        tracing::debug!(tensor = step.slot.name, quant = %step.quant(), ?timing, "placed");
        self.timings.push(timing);
        self.tell(&Event::Placed { step, seconds })
    }

    fn tell(&self, event: &Event<'_>) -> Result<(), PipelineError> {
        match self.settings.observer.observe(event) {
            Flow::Continue => Ok(()),
            Flow::Cancel => Err(PipelineError::cancelled(
                event,
                self.timings.len(),
                self.plan,
            )),
        }
    }
}

impl PipelineError {
    pub(crate) fn cancelled(event: &Event<'_>, done: usize, plan: &Plan) -> Self {
        Self::Cancelled {
            at: event.name(),
            done,
            total: plan.steps.len(),
        }
    }
}

fn timed<R>(run: impl FnOnce() -> R) -> (R, Duration) {
    let started = Instant::now();
    let result = run();
    (result, started.elapsed())
}
