//! The rows of an epoch, window by window.
//!
//! ```text
//! order ─► records ─► documents ─► window ─► rows ─► their order
//! ```
//!
//! A window holds the documents that fill [`ROWS`] rows. Its rows are a function of the record where it begins, so that a run
//! goes on at any row after the work of one window.

use std::{collections::VecDeque, path::PathBuf, sync::Arc, vec};

use rayon::{
    ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder,
    iter::{IntoParallelIterator, ParallelIterator},
};

use super::{
    config::{DataConfig, RowPacking},
    document::{Document, Encoder},
    error::DataError,
    index::{RecordIndex, RecordReader},
    order::Permutation,
    packing::{best_fit, one_a_row},
    summary::{DataCounts, DataSummary},
};
use crate::train::batch::Row;

/// Rows that a window fills: so many that the last one counts for little, and so few that a run goes on within a second.
const ROWS: usize = 64;

/// Records that each thread makes to tokens before the results are looked at.
const RECORDS_A_THREAD: usize = 4;

/// All that does not change while the data are read.
#[derive(Debug)]
pub(super) struct Input {
    pub(super) config: DataConfig,
    pub(super) index: RecordIndex,
    pub(super) encoder: Encoder,
    /// What the folders hold beside the files.
    pub(super) ignored: Vec<PathBuf>,
}

impl Input {
    pub(super) fn summary(&self, counts: DataCounts) -> DataSummary {
        DataSummary {
            files: self.index.files().len(),
            ignored: self.ignored.clone(),
            length: self.config.length,
            counts,
        }
    }
}

/// The place of a record in the order of its epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Start {
    pub(super) epoch: u64,
    pub(super) document: u64,
}

/// Some rows.
#[derive(Debug)]
pub(super) struct Window {
    /// Where the next window begins.
    pub(super) next: Start,
    pub(super) rows: vec::IntoIter<Row>,
    pub(super) counts: DataCounts,
}

/// Makes windows, one after the other, without end.
#[derive(Debug)]
pub(super) struct Windows {
    input: Arc<Input>,
    reader: RecordReader,
    threads: Option<ThreadPool>,
    next: Start,
    order: Permutation,
    /// Documents that were made, of this epoch: that of `next` first.
    made: VecDeque<Result<Document, DataError>>,
}

impl Windows {
    /// The windows from a place on, which begins one.
    pub(super) fn new(input: Arc<Input>, start: Start) -> Result<Self, DataError> {
        let threads = match input.config.workers {
            0 | 1 => None,
            several => {
                let threads = ThreadPoolBuilder::new().num_threads(several);
                let threads = threads.thread_name(|nth| format!("firebox-data-{nth}"));
                let failed = |error: ThreadPoolBuildError| DataError::Thread(error.to_string());
                Some(threads.build().map_err(failed)?)
            }
        };
        Ok(Self {
            order: order(&input, start.epoch),
            input,
            reader: RecordReader::default(),
            threads,
            next: start,
            made: VecDeque::new(),
        })
    }

    /// The next window. It ends where its rows are full, or its epoch ends.
    pub(super) fn window(&mut self) -> Result<Window, DataError> {
        let config = &self.input.config;
        let (length, packing) = (config.length, config.packing);
        let documents = self.input.index.len();
        let start = self.next;
        let mut counts = DataCounts::default();
        let mut pieces = Vec::new();
        loop {
            let is_full = match packing {
                RowPacking::BestFit => counts.tokens >= (ROWS * length) as u64,
                RowPacking::None => pieces.len() >= ROWS,
            };
            if is_full || self.next.document == documents {
                break;
            }
            let document = self.document()?;
            counts += document.counts;
            pieces.extend(document.pieces);
        }
        if self.next.document == documents {
            self.next = Start {
                epoch: start.epoch + 1,
                document: 0,
            };
            self.order = order(&self.input, self.next.epoch);
        }
        let rows = match packing {
            RowPacking::BestFit => best_fit(pieces, length),
            RowPacking::None => one_a_row(pieces),
        };
        counts.rows = rows.len() as u64;
        Ok(Window {
            next: self.next,
            rows: self.in_order(start, rows).into_iter(),
            counts,
        })
    }

    /// Rows in the order of the seed.
    fn in_order(&self, start: Start, rows: Vec<Row>) -> Vec<Row> {
        let order = self.input.config.order;
        // A document's place counts from 1, so that no order is that of the records.
        let place = [start.epoch, start.document + 1];
        let order = Permutation::new(order, place, rows.len() as u64);
        let mut rows: Vec<Option<Row>> = rows.into_iter().map(Some).collect();
        let places = 0..rows.len() as u64;
        places
            .filter_map(|place| rows[order.at(place) as usize].take())
            .collect()
    }

    /// The next document of this epoch.
    fn document(&mut self) -> Result<Document, DataError> {
        if self.made.is_empty() {
            self.make()?;
        }
        self.next.document += 1;
        self.made
            .pop_front()
            .unwrap_or_else(|| Ok(Document::default()))
    }

    /// Makes some documents. Each one that fails keeps its error until its turn comes.
    fn make(&mut self) -> Result<(), DataError> {
        let Input { index, encoder, .. } = &*self.input;
        let threads = self
            .threads
            .as_ref()
            .map_or(0, ThreadPool::current_num_threads);
        let count = 1.max(threads * RECORDS_A_THREAD) as u64;
        let first = self.next.document;
        let mut records = Vec::new();
        for nth in first..index.len().min(first + count) {
            let place = index.place(self.order.at(nth));
            let bytes = self.reader.read(index, &place);
            records.push((place, bytes));
        }
        let make = |(place, bytes): (_, Result<Vec<u8>, DataError>)| {
            let kind = index.file(&place).kind;
            encoder
                .document(kind, &bytes?, [place.is_first, place.is_last])
                .map_err(|error| index.error(&place, error))
        };
        self.made = match &self.threads {
            Some(threads) => threads.install(|| {
                let made: Vec<_> = records.into_par_iter().map(make).collect();
                made.into()
            }),
            None => records.into_iter().map(make).collect(),
        };
        Ok(())
    }
}

fn order(input: &Input, epoch: u64) -> Permutation {
    Permutation::new(input.config.order, [epoch, 0], input.index.len())
}
