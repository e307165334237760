//! The threads of a run: one reads, one converts, and the caller's places.

use std::{
    thread,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvError, bounded};
use rayon::ThreadPool;

use super::{
    ahead::StepReads,
    convert::{Completed, Convert},
    dense::Dense,
    error::{PipelineError, SinkError, Stop},
    fetch::{FetchedSource, fetching, spawn},
    finished::{Finished, RowBatch},
    in_flight::Account,
    read::{Incoming, Reader, Straight, read},
    settings::Settings,
    sink::{RowSink, Sink},
    tile::SourceTile,
    timing::Timing,
};
use crate::{
    observe::{Event, Shards, Span, tell},
    plan::{Plan, Step},
    source::Source,
};

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
    let steps = plan.steps.iter().map(StepReads::of);
    // Of the bytes in flight that nobody has set aside, most are for what is fetched ahead, and the others for tiles.
    let bytes = settings.in_flight.free() / 4 * 3;
    fetching(source, steps, (&settings.in_flight, bytes), |source| {
        read_and_place(plan, source, sink, settings)
    })
}

fn read_and_place(
    plan: &Plan,
    source: FetchedSource<'_>,
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
        let (account, workers) = (&account, &workers);
        spawn(scope, "firebox-read", move || {
            let reader = Reader::new(source, settings, account, workers, &send);
            read(&reader, plan, &by_rows, &send);
        })?;
        let converting = Converting { plan, workers };
        if !settings.devices.is_empty() {
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

/// Messages between two threads, most of which hold no memory that is not counted.
const MESSAGES_WAITING_MAX: usize = 16;
/// Tensors between the reader and the converter.
pub(super) const TENSORS_WAITING_MAX: usize = 4;
/// Finished weights, or batches of rows, between the converter and the sink.
const WEIGHTS_WAITING_MAX: usize = 1;

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
    workers: &'a ThreadPool,
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
            let (bytes, read) = (tile.bytes_read, tile.read);
            timing.read(bytes, read);
            give(Note::Read(step, bytes, read.took()))?;
            let (rows, span) = timed(|| converter.feed(step, tile, self.workers));
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

/// Reports to the observers, and hands weights to the sink.
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
