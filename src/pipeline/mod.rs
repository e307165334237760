//! Carrying out a plan: tiles are read ahead of the workers, converted, and placed.
//!
//! ```text
//! reader threads ──tiles──► converter, worker pool ──finished weights, or pieces──► sink
//!      ▲                         │
//!      └──── bytes in flight ◄───┘ a tile's bytes are given back as soon as it is converted
//! ```
//!
//! Tensors are cut into tiles of whole rows. One tensor is converted at a time, each tile by all
//! workers: memory beside the finished weights is what is in flight plus scratch, whatever the model, and a
//! single huge tensor keeps every core busy. Tiles of the next tensors are read meanwhile, and the tensors before
//! are placed: a file is written while the next weight is packed. What a sink takes in pieces is never whole in memory.
//!
//! The sink and the observers are called from the caller's thread. Where a device packs, conversion is on that thread as
//! well: the device works by itself, and its queue belongs to one thread.
//!
//! A cancel or a failure takes effect when the read under way returns.

mod error;

mod in_flight;
mod pages;
mod staging;

mod cut;
mod dense;
mod pieces;
mod tile;

mod convert;
mod upload;

mod read;

mod compare;
mod rows;

pub use crate::observe::{Event, Flow, Observer};
pub(crate) use compare::Comparer;
pub use convert::{Finished, RowBatch};
pub(crate) use cut::{cut_dense, cut_packed};
pub use dense::{Dense, Values};
pub use error::{PipelineError, SinkError};
pub use in_flight::InFlight;
pub(crate) use pieces::Pieces;
pub(crate) use rows::{Original, RowReader, read_error};
pub(crate) use upload::upload;

use std::{
    sync::Arc,
    thread::{self, Scope},
    time::{Duration, Instant},
};

use burn::tensor::Device;
use crossbeam_channel::{Receiver, RecvError, SendError, bounded};
use rayon::ThreadPool;

use self::{
    convert::{Completed, Convert},
    in_flight::Account,
    read::{Incoming, Straight, read},
    tile::SourceTile,
};
use crate::{
    observe::{Shards, Span, Spans, extend, tell},
    plan::{Plan, Step},
    source::Source,
};

/// The end of the pipeline: it takes finished weights and makes a module, files, or anything else of them.
pub trait Sink {
    /// Takes one finished weight. Called in the order of the plan, from the thread that runs the
    /// pipeline.
    ///
    /// # Errors
    ///
    /// [`SinkError`], which stops the run; nothing more is read after it.
    fn place(&mut self, step: &Step, weight: Finished) -> Result<(), SinkError>;

    /// This sink as one that takes the rows of this weight batch by batch, so that the weight is never whole in memory;
    /// `None` to get it whole. Asked before anything is read, and again for every batch. Weights that the checkpoint has
    /// packed, and weights that a device packs, always come whole.
    fn rows_of(&mut self, _step: &Step) -> Option<&mut dyn RowSink> {
        None
    }
}

/// A sink that can take a weight batch by batch.
pub trait RowSink: Sink {
    /// Takes the next rows of a weight. Called as [`place`](Sink::place) is.
    ///
    /// # Errors
    ///
    /// As [`place`](Sink::place).
    fn rows(&mut self, step: &Step, rows: RowBatch) -> Result<(), SinkError>;

    /// Takes the scales of a weight whose rows were all taken. A dense weight has no scales.
    ///
    /// # Errors
    ///
    /// As [`place`](Sink::place).
    fn end(&mut self, step: &Step, scales: Vec<u32>) -> Result<(), SinkError>;
}

/// How to carry out a plan.
#[derive(Debug, Clone)]
pub struct Settings<'a> {
    /// Threads that convert.
    pub workers: usize,
    /// Threads that share each read.
    pub readers: usize,
    /// Bytes that are read at once, about: rows are not cut, nor what has to stay together.
    pub tile_bytes: u64,
    /// Bytes of source weights in memory at once. A tile that cannot be split further passes alone.
    pub in_flight: Arc<InFlight>,
    /// Where weights are packed, by methods that a device has; on the host if `None`.
    pub device: Option<&'a Device>,
    /// Bytes of the largest allocation on that device.
    pub allocation_max: Option<u64>,
    /// Told of every event.
    pub observer: &'a dyn Observer,
}

impl<'a> Settings<'a> {
    /// On the host, by so many workers, with so many bytes of source weights in memory at once.
    pub fn new(workers: usize, in_flight: u64, observer: &'a dyn Observer) -> Self {
        Self::sharing(workers, &Arc::new(InFlight::new(in_flight)), observer)
    }

    /// On the host, by so many workers, with a bound that other runs go by as well.
    pub fn sharing(workers: usize, in_flight: &Arc<InFlight>, observer: &'a dyn Observer) -> Self {
        Self {
            workers,
            readers: 1,
            tile_bytes: tile_bytes(in_flight.max()),
            in_flight: Arc::clone(in_flight),
            device: None,
            allocation_max: None,
            observer,
        }
    }

    /// The threads that convert.
    pub(crate) fn pool(&self) -> Result<ThreadPool, PipelineError> {
        pool(self.workers, "firebox-convert")
    }
}

/// Large enough that a read costs little besides its bytes, small enough to stay in the cache of
/// today's processors until it is converted.
const TILE_BYTES: u64 = 4 << 20;

/// Bytes of a tile, of which several are to be among `in_flight`.
pub(crate) fn tile_bytes(in_flight: u64) -> u64 {
    TILE_BYTES.min(in_flight / 8)
}

fn pool(count: usize, name: &'static str) -> Result<ThreadPool, PipelineError> {
    let count = count.max(1);
    rayon::ThreadPoolBuilder::new()
        .num_threads(count)
        .thread_name(move |index| format!("{name}-{index}"))
        .build()
        .map_err(|error| PipelineError::Workers {
            count,
            reason: error.to_string(),
        })
}

/// Where the time of one tensor went.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Timing {
    /// Bytes read: more than the tensor has where a format needs to see it twice.
    pub bytes: u64,
    /// Reading its bytes, which overlaps with converting earlier tensors.
    pub read: Duration,
    /// Converting, which overlaps with placing earlier tensors on a host target.
    pub convert: Duration,
    /// Placing.
    pub place: Duration,
    /// When each of these was.
    pub spans: Spans,
}

impl Timing {
    fn read(&mut self, bytes: u64, span: Span) {
        self.bytes += bytes;
        self.read += span.took();
        extend(&mut self.spans.read, span);
    }

    fn converted(&mut self, span: Span) {
        self.convert += span.took();
        extend(&mut self.spans.convert, span);
    }

    fn placed(&mut self, span: Span) {
        self.place += span.took();
        extend(&mut self.spans.place, span);
    }
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
    let by_rows: Vec<bool> = plan
        .steps
        .iter()
        .map(|step| sink.rows_of(step).is_some())
        .collect();
    let account = Account::new(&settings.in_flight);
    let mut placing = Placing {
        plan,
        sink,
        settings,
        shards: Shards::new(plan),
        timings: Vec::new(),
        rows: Timing::default(),
    };
    let workers = settings.pool()?;
    thread::scope(|scope| {
        // The account bounds the bytes in flight; this bounds the tensors that have none.
        let (send, tensors) = bounded(TENSORS_WAITING_MAX);
        // Wakes a reader that waits for bytes, should this thread leave early.
        let _closing = account.close_on_drop();
        let account = &account;
        spawn(scope, "firebox-read", move || {
            read(plan, &by_rows, source, settings, account, send);
        })?;
        let converting = Converting { plan, workers };
        if settings.device.is_some() {
            // Only a reader that panics abandons a tensor, and the scope passes its panic on.
            if let Err(Stop::Failed(error)) =
                converting.run(&tensors, |note| Ok(placing.take(note)?))
            {
                return Err(error);
            }
        } else {
            let (give, notes) = bounded(MESSAGES_WAITING_MAX);
            // Weights wait for the sink, but not many of them.
            let (wait, taken) = bounded(WEIGHTS_WAITING_MAX);
            let convert = move || {
                let ran = converting.run(&tensors, |note| {
                    if note.holds_memory() {
                        wait.send(())?;
                    }
                    Ok(give.send(note)?)
                });
                if let Err(Stop::Failed(error)) = ran {
                    // If nobody receives it, the run has failed already.
                    let _ = give.send(Note::Failed(error));
                }
            };
            spawn(scope, "firebox-convert", convert)?;
            for note in notes {
                if note.holds_memory() {
                    // The converter may have ended, and let go of its end.
                    let _: Result<(), RecvError> = taken.recv();
                }
                placing.take(note)?;
            }
        }
        Ok(placing.timings)
    })
}

fn spawn<'s>(
    scope: &'s Scope<'s, '_>,
    name: &str,
    run: impl FnOnce() + Send + 's,
) -> Result<(), PipelineError> {
    let thread = thread::Builder::new().name(name.to_owned());
    match thread.spawn_scoped(scope, run) {
        Ok(_) => Ok(()),
        Err(error) => Err(PipelineError::Workers {
            count: 1,
            reason: error.to_string(),
        }),
    }
}

/// Messages between two threads, most of which hold no memory that is not counted.
const MESSAGES_WAITING_MAX: usize = 16;
/// Tensors between the reader and the converter.
const TENSORS_WAITING_MAX: usize = 4;
/// Finished weights, or batches of rows, between the converter and the sink.
const WEIGHTS_WAITING_MAX: usize = 1;

/// Why a thread of the pipeline ends early.
enum Stop {
    /// Nobody listens any more: whoever did has failed or was cancelled.
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

/// What the converter reports: for each tensor `Started`, any number of `Read` and `Rows`, and then `Finished`; or
/// `Failed`, and nothing more.
enum Note<'a> {
    Started(&'a Step),
    Read(&'a Step, u64, Duration),
    Rows(&'a Step, RowBatch),
    Finished(&'a Step, Completed, Timing),
    Failed(PipelineError),
}

impl Note<'_> {
    fn holds_memory(&self) -> bool {
        matches!(self, Self::Rows(..) | Self::Finished(..))
    }
}

/// Converts, one tensor after another.
struct Converting<'a> {
    plan: &'a Plan,
    workers: ThreadPool,
}

impl<'a> Converting<'a> {
    fn run(
        &self,
        tensors: &Receiver<Result<Incoming<'_>, PipelineError>>,
        mut give: impl FnMut(Note<'a>) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        for step in &self.plan.steps {
            let incoming = tensors.recv()??;
            give(Note::Started(step))?;
            let mut timing = Timing::default();
            let completed = match incoming {
                Incoming::Straight(progress) => {
                    let dense = Self::straight(step, &progress, &mut timing, &mut give)?;
                    Completed::Weight(Finished::Dense(dense))
                }
                Incoming::Tiles {
                    converter,
                    count,
                    tiles,
                } => {
                    let tiles = (0..count).map(|_| tiles.recv()?.map_err(Stop::from));
                    self.convert(step, converter, tiles, &mut timing, &mut give)?
                }
            };
            give(Note::Finished(step, completed, timing))?;
        }
        Ok(())
    }

    /// Waits for a weight that the reader reads to where it stays.
    fn straight(
        step: &'a Step,
        progress: &Receiver<Result<Straight, PipelineError>>,
        timing: &mut Timing,
        give: &mut impl FnMut(Note<'a>) -> Result<(), Stop>,
    ) -> Result<Dense, Stop> {
        loop {
            match progress.recv()?? {
                Straight::Part { bytes, read } => {
                    timing.read(bytes, read);
                    give(Note::Read(step, bytes, read.took()))?;
                }
                Straight::Whole(dense) => return Ok(dense),
            }
        }
    }

    fn convert<'t>(
        &self,
        step: &'a Step,
        mut converter: Box<dyn Convert>,
        tiles: impl Iterator<Item = Result<SourceTile<'t>, Stop>>,
        timing: &mut Timing,
        give: &mut impl FnMut(Note<'a>) -> Result<(), Stop>,
    ) -> Result<Completed, Stop> {
        for tile in tiles {
            let tile = tile?;
            let (bytes, read) = (tile.bytes().len() as u64, tile.read);
            timing.read(bytes, read);
            give(Note::Read(step, bytes, read.took()))?;
            let (rows, span) = timed(|| converter.feed(step, tile, &self.workers));
            timing.converted(span);
            if let Some(rows) = rows? {
                give(Note::Rows(step, rows))?;
            }
        }
        let (completed, span) = timed(|| self.workers.install(|| converter.finish(step)));
        timing.converted(span);
        Ok(completed?)
    }
}

/// Tells the observers, and hands weights to the sink.
struct Placing<'a> {
    plan: &'a Plan,
    sink: &'a mut dyn Sink,
    settings: &'a Settings<'a>,
    shards: Shards,
    timings: Vec<Timing>,
    /// Placing the rows of the current weight.
    rows: Timing,
}

impl Placing<'_> {
    fn take(&mut self, note: Note<'_>) -> Result<(), PipelineError> {
        match note {
            Note::Started(step) => {
                for (file, bytes) in self.shards.opened(step) {
                    let file = &file;
                    self.tell(&Event::ShardOpened { file, bytes })?;
                }
                self.tell(&Event::Started { step })
            }
            Note::Read(step, bytes, seconds) => self.tell(&Event::Read {
                step,
                bytes,
                seconds,
            }),
            Note::Rows(step, rows) => {
                let (placed, span) = timed(|| self.row_sink(step)?.rows(step, rows));
                self.rows.placed(span);
                Ok(placed?)
            }
            Note::Finished(step, completed, mut timing) => {
                let seconds = timing.convert;
                self.tell(&Event::Packed { step, seconds })?;
                let (placed, span) = timed(|| match completed {
                    Completed::Weight(weight) => self.sink.place(step, weight),
                    Completed::Rows(scales) => self.row_sink(step)?.end(step, scales),
                });
                placed?;
                self.rows.placed(span);
                let rows = core::mem::take(&mut self.rows);
                (timing.place, timing.spans.place) = (rows.place, rows.spans.place);
                self.timings.push(timing);
                let seconds = timing.place;
                self.tell(&Event::Placed { step, seconds })
            }
            Note::Failed(error) => Err(error),
        }
    }

    /// The sink of the rows of a weight, which had said that it takes them.
    fn row_sink(&mut self, step: &Step) -> Result<&mut dyn RowSink, SinkError> {
        let sink = self.sink.rows_of(step);
        sink.ok_or_else(|| {
            let reason = "its sink took rows before the run, and takes them no more";
            SinkError::new(&*step.slot.name, reason)
        })
    }

    fn tell(&self, event: &Event<'_>) -> Result<(), PipelineError> {
        let (done, total) = (self.timings.len(), self.plan.steps.len());
        Ok(tell(self.settings.observer, event, done, total)?)
    }
}

fn timed<R>(run: impl FnOnce() -> R) -> (R, Span) {
    let started = Instant::now();
    let result = run();
    (result, Span::since(started))
}
