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

mod read;

mod convert;
mod upload;

pub use crate::observe::{Event, Flow, Observer};
pub use convert::{Dense, Finished, Piece};
pub use error::{PipelineError, SinkError};
pub use in_flight::InFlight;
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
    in_flight::Account,
    read::{Message, read},
};
use crate::{
    observe::{Shards, Span, Spans, extend, tell},
    plan::{Plan, Step},
    source::Source,
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

    /// Whether the rows of this weight are taken one [`piece`](Self::piece) after another, so that it is never whole in
    /// memory. Asked before anything is read. Weights that the checkpoint has packed, and those that a device packs, come
    /// whole all the same.
    fn in_pieces(&self, _step: &Step) -> bool {
        false
    }

    /// Takes the next rows of a weight; [`place`](Self::place) with [`Finished::Pieces`] follows the last.
    ///
    /// # Errors
    ///
    /// As [`place`](Self::place).
    fn piece(&mut self, step: &Step, _piece: Piece) -> Result<(), SinkError> {
        unreachable!("{} was to be placed whole", step.slot.name)
    }
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
    let whole: Vec<bool> = plan
        .steps
        .iter()
        .map(|step| !sink.in_pieces(step))
        .collect();
    let account = Account::new(&settings.in_flight);
    let mut placing = Placing {
        plan,
        sink,
        settings,
        shards: Shards::new(plan),
        timings: Vec::new(),
        pieces: Timing::default(),
    };
    let workers = settings.pool()?;
    thread::scope(|scope| {
        // The account bounds the bytes in flight; this bounds the messages of tensors that have none.
        let (send, messages) = bounded(MESSAGES_WAITING_MAX);
        // Wakes a reader that waits for bytes, should this thread leave early.
        let _closing = account.close_on_drop();
        let account = &account;
        spawn(scope, "firebox-read", move || {
            read(plan, &whole, source, settings, account, send);
        })?;
        let converting = Converting { plan, workers };
        if settings.device.is_some() {
            match converting.run(&messages, |note| Ok(placing.take(note)?)) {
                Ok(()) => {}
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Abandoned) => unreachable!("the reader ends every tensor or fails"),
            }
        } else {
            let (give, notes) = bounded(MESSAGES_WAITING_MAX);
            // Weights wait for the sink, but not many of them.
            let (wait, taken) = bounded(WEIGHTS_WAITING_MAX);
            let convert = move || {
                let told = converting.run(&messages, |note| {
                    if note.holds_memory() {
                        wait.send(())?;
                    }
                    Ok(give.send(note)?)
                });
                if let Err(Stop::Failed(error)) = told {
                    // Whether anybody still listens does not matter: this was the last note.
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

/// Messages between two threads, most of which hold no memory of their own.
const MESSAGES_WAITING_MAX: usize = 16;
/// Finished weights, or pieces, between the converter and the sink.
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

/// What the converter tells, tensor by tensor: `Started (Read Piece?)* Finished`, or `Failed` and nothing more.
enum Note<'a> {
    Started(&'a Step),
    Read(&'a Step, u64, Duration),
    Piece(&'a Step, Piece),
    Finished(&'a Step, Finished, Timing),
    Failed(PipelineError),
}

impl Note<'_> {
    fn holds_memory(&self) -> bool {
        matches!(self, Self::Piece(..) | Self::Finished(..))
    }
}

/// Converts, one tensor after another.
struct Converting<'a> {
    plan: &'a Plan,
    workers: ThreadPool,
}

impl<'a> Converting<'a> {
    fn run<'t>(
        &self,
        messages: &Receiver<Message<'t>>,
        mut give: impl FnMut(Note<'a>) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        let mut steps = self.plan.steps.iter();
        steps.try_for_each(|step| self.tensor(step, messages, &mut give))
    }

    fn tensor<'t>(
        &self,
        step: &'a Step,
        messages: &Receiver<Message<'t>>,
        give: &mut impl FnMut(Note<'a>) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        let mut converter = match messages.recv()? {
            Message::Begin(converter) => converter,
            Message::Failed(error) => return Err(error.into()),
            _ => unreachable!("the reader begins a tensor first"),
        };
        give(Note::Started(step))?;
        let mut timing = Timing::default();
        let mut whole = None;
        loop {
            let (bytes, read, tile) = match messages.recv()? {
                Message::Tile(tile) => (tile.bytes().len() as u64, tile.read, Some(tile)),
                Message::Filled { bytes, read } => (bytes, read, None),
                Message::Whole(dense) => {
                    whole = Some(Finished::Dense(dense));
                    continue;
                }
                Message::Failed(error) => return Err(error.into()),
                Message::End => break,
                Message::Begin(_) => unreachable!("the reader ends a tensor before the next"),
            };
            timing.bytes += bytes;
            timing.read += read.took();
            extend(&mut timing.spans.read, read);
            give(Note::Read(step, bytes, read.took()))?;
            if let Some(tile) = tile {
                let (piece, span) = timed(|| converter.feed(step, tile, &self.workers));
                timing.converted(span);
                if let Some(piece) = piece? {
                    give(Note::Piece(step, piece))?;
                }
            }
        }
        let finished = match whole {
            Some(whole) => whole,
            None => {
                let (finished, span) = timed(|| self.workers.install(|| converter.finish(step)));
                timing.converted(span);
                finished?
            }
        };
        give(Note::Finished(step, finished, timing))
    }
}

/// Tells the observers, and hands weights to the sink.
struct Placing<'a> {
    plan: &'a Plan,
    sink: &'a mut dyn Sink,
    settings: &'a Settings<'a>,
    shards: Shards,
    timings: Vec<Timing>,
    /// Placing the pieces of the current weight.
    pieces: Timing,
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
            Note::Piece(step, piece) => {
                let (placed, span) = timed(|| self.sink.piece(step, piece));
                self.pieces.placed(span);
                Ok(placed?)
            }
            Note::Finished(step, finished, mut timing) => {
                let seconds = timing.convert;
                self.tell(&Event::Packed { step, seconds })?;
                let (placed, span) = timed(|| self.sink.place(step, finished));
                placed?;
                self.pieces.placed(span);
                let pieces = core::mem::take(&mut self.pieces);
                (timing.place, timing.spans.place) = (pieces.place, pieces.spans.place);
                self.timings.push(timing);
                let seconds = timing.place;
                self.tell(&Event::Placed { step, seconds })
            }
            Note::Failed(error) => Err(error),
        }
    }

    fn tell(&self, event: &Event<'_>) -> Result<(), PipelineError> {
        let (done, total) = (self.timings.len(), self.plan.steps.len());
        tell(self.settings.observer, event, done, total)
    }
}

fn timed<R>(run: impl FnOnce() -> R) -> (R, Span) {
    let started = Instant::now();
    let result = run();
    (result, Span::since(started))
}
