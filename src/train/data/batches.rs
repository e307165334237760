//! Batches, one after the other.

use std::{
    panic,
    sync::Arc,
    thread::{self, JoinHandle},
};

use crossbeam_channel::{Receiver, bounded};
use serde::{Deserialize, Serialize};

use super::{
    error::DataError,
    summary::DataCounts,
    windows::{Input, Start, Window, Windows},
};
use crate::train::batch::{Batch, Row};

/// More epochs than any run has: a position beyond is broken.
const EPOCHS_MAX: u64 = 1 << 40;

/// Where the next row comes from. Batches from here on are those of a run that was not interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataPosition {
    /// Epochs that are over.
    pub epoch: u64,
    /// Documents of this epoch, and parts of texts, that are over: rows are made of those from here on.
    pub document: u64,
    /// Rows that these documents gave already.
    pub row: u64,
}

/// How far the batches go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// From epoch to epoch. All batches are full.
    Never,
    /// To the end of the epoch. The last batch may have fewer rows.
    Epoch,
}

/// Batches, each with the position after it. The iterator ends after an error.
#[derive(Debug)]
pub struct Batches {
    input: Arc<Input>,
    end: End,
    source: RowSource,
    window: Option<Window>,
    position: DataPosition,
    /// What became of the documents that were read since a place in this epoch.
    counts: DataCounts,
    since: Start,
    is_over: bool,
    failed: bool,
}

/// Where windows are made.
#[derive(Debug)]
enum RowSource {
    Here(Box<Windows>),
    Ahead {
        windows: Receiver<Result<Window, DataError>>,
        thread: Option<JoinHandle<()>>,
    },
}

impl RowSource {
    fn new(input: &Arc<Input>, start: Start) -> Result<Self, DataError> {
        let mut made = Windows::new(Arc::clone(input), start)?;
        if input.config.workers == 0 {
            return Ok(Self::Here(Box::new(made)));
        }
        // Without room: one window is being made while another one is used.
        let (send, windows) = bounded(0);
        let run = move || {
            loop {
                let window = made.window();
                let is_last = window.is_err();
                if send.send(window).is_err() || is_last {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("firebox-data".to_owned());
        let thread = thread.spawn(run);
        let thread = thread.map_err(|error| DataError::Thread(error.to_string()))?;
        Ok(Self::Ahead {
            windows,
            thread: Some(thread),
        })
    }

    fn window(&mut self) -> Result<Window, DataError> {
        match self {
            Self::Here(windows) => windows.window(),
            Self::Ahead { windows, thread } => windows.recv().unwrap_or_else(|_| {
                let ended = thread.take().map(JoinHandle::join);
                match ended {
                    Some(Err(cause)) => panic::resume_unwind(cause),
                    _ => Err(DataError::Thread("it has ended".to_owned())),
                }
            }),
        }
    }
}

impl Batches {
    pub(super) fn new(
        input: Arc<Input>,
        position: DataPosition,
        end: End,
    ) -> Result<Self, DataError> {
        let documents = input.index.len();
        let wrong = |field, value, len| Err(DataError::Position { field, value, len });
        if position.epoch >= EPOCHS_MAX {
            return wrong("epoch", position.epoch, EPOCHS_MAX);
        }
        if position.document >= documents {
            return wrong("document", position.document, documents);
        }
        let start = Start {
            epoch: position.epoch,
            document: position.document,
        };
        let mut batches = Self {
            source: RowSource::new(&input, start)?,
            input,
            end,
            window: None,
            position,
            counts: DataCounts::default(),
            since: start,
            is_over: false,
            failed: false,
        };
        if position.row > 0 {
            let mut window = batches.source.window()?;
            batches.counts += window.counts;
            let rows = window.rows.len() as u64;
            if position.row >= rows {
                return wrong("row", position.row, rows);
            }
            window.rows.nth(position.row as usize - 1);
            batches.window = Some(window);
        }
        Ok(batches)
    }

    /// Where the next batch comes from.
    pub fn position(&self) -> DataPosition {
        self.position
    }

    fn batch(&mut self) -> Result<Option<Batch>, DataError> {
        let size = self.input.config.batch;
        let mut rows = Vec::new();
        while rows.len() < size {
            match self.row()? {
                Some(row) => rows.push(row),
                None if rows.is_empty() => return Ok(None),
                None => break,
            }
        }
        Ok(Some(Batch::new(&rows)))
    }

    /// The next row; `None` at the end.
    fn row(&mut self) -> Result<Option<Row>, DataError> {
        loop {
            if let Some(window) = &mut self.window {
                let row = window.rows.next();
                if window.rows.len() > 0 {
                    self.position.row += u64::from(row.is_some());
                    return Ok(row);
                }
                // The last row of a window: the position is that of the next one.
                let next = window.next;
                self.window = None;
                self.position = DataPosition {
                    epoch: next.epoch,
                    document: next.document,
                    row: 0,
                };
                if row.is_some() {
                    return Ok(row);
                }
            }
            if self.is_over {
                return Ok(None);
            }
            self.next_window()?;
        }
    }

    fn next_window(&mut self) -> Result<(), DataError> {
        let window = self.source.window()?;
        self.counts += window.counts;
        if window.next.epoch > self.since.epoch {
            // No other epoch has more.
            if self.since.document == 0 && self.counts.rows == 0 {
                let summary = self.input.summary(self.counts).to_string();
                return Err(DataError::Untrained { summary });
            }
            self.counts = DataCounts::default();
            self.since = window.next;
            self.is_over = self.end == End::Epoch;
        }
        self.window = Some(window);
        Ok(())
    }
}

impl Iterator for Batches {
    type Item = Result<(Batch, DataPosition), DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let batch = self.batch().transpose()?;
        self.failed = batch.is_err();
        Some(batch.map(|batch| (batch, self.position)))
    }
}
