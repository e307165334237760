//! From files to batches.
//!
//! ```text
//! files ─► index ─► order ─► records ─► documents ─► windows ─► rows ─► Batch
//!          (8 bytes          (text,     (tokens       (packed)
//!          a record)         chat, …)   and labels)
//! ```
//!
//! All of it is a function of the files, the configuration and the position: a run that is resumed sees the tokens that the
//! uninterrupted run sees, whatever the number of threads.

mod answers;
mod batches;
mod config;
mod document;
mod error;
mod files;
mod index;
mod order;
mod packing;
mod record;
mod shown;
mod split;
mod summary;
mod windows;

use std::sync::Arc;

pub use batches::{Batches, DataPosition};
pub use config::{DataConfig, DataOrder, RowPacking};
pub use error::{DataError, RecordError};
pub use shown::shown;
pub use summary::{DataCounts, DataSummary};

use batches::End;
use document::Encoder;
use files::files_of;
use index::RecordIndex;
use windows::{Input, Start, Windows};

use super::batch::Batch;
use crate::text::Tokenizer;

/// Documents to train on.
///
/// Memory: 8 bytes a record; the rows of two windows of 64 rows, 16 bytes a token; and the longest record while it is made to
/// tokens. A text file counts as records of 64 KiB.
///
/// ```
/// use std::{fs, sync::Arc};
/// use firebox::train::{Data, DataConfig, DataPosition};
/// # use firebox::text::{Tokenizer, TokenizerFiles};
/// # let tokenizer_json = include_bytes!("../../../assets/tinyrust/tokenizer.json");
/// # let tokenizer = Tokenizer::from_bytes(TokenizerFiles {
/// #     tokenizer_json: Some(tokenizer_json),
/// #     ..TokenizerFiles::default()
/// # })?;
/// # let folder = tempfile::tempdir()?;
/// # let file = folder.path().join("records.jsonl");
/// # fs::write(&file, "{\"text\": \"fn main() {}\"}\n{\"text\": \"let x = 1;\"}\n")?;
///
/// let config = DataConfig { length: 64, ..DataConfig::new([file]) };
/// let data = Data::open(config, Arc::new(tokenizer))?;
/// println!("{}", data.summary()?);
///
/// let mut batches = data.batches(DataPosition::default())?;
/// let (batch, position) = batches.next().expect("no end")?;
/// assert_eq!(batch.shape()[0], 1);
/// assert_eq!(position.epoch, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Data {
    input: Arc<Input>,
}

impl Data {
    /// Reads all files once: finds their records, and looks at each, so that a broken one is known now. Tokens are made later.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, has another kind than its name says or is empty; a record that is no JSON, has none of the
    /// known fields or one of another type; a chat for a model without a template; numbers of the configuration that are 0.
    pub fn open(config: DataConfig, tokenizer: Arc<Tokenizer>) -> Result<Self, DataError> {
        config.check()?;
        let (files, ignored) = files_of(&config.files)?;
        let encoder = Encoder::new(&config, tokenizer);
        let index = RecordIndex::new(files, |record| encoder.check(record))?;
        Ok(Self {
            input: Arc::new(Input {
                config,
                index,
                encoder,
                ignored,
            }),
        })
    }

    /// Batches from a position on, epoch after epoch. All have [`DataConfig::batch`] rows, as long as the longest of them.
    ///
    /// # Errors
    ///
    /// A position that the data do not have. Items are errors of files and records; after one the iterator ends.
    pub fn batches(&self, position: DataPosition) -> Result<Batches, DataError> {
        Batches::new(Arc::clone(&self.input), position, End::Never)
    }

    /// The batches of one epoch, as for an evaluation, where [`DataOrder::AsWritten`] is in place. The last batch may have fewer
    /// rows.
    ///
    /// # Errors
    ///
    /// As [`Data::batches`].
    pub fn pass(&self) -> Result<Batches, DataError> {
        Batches::new(Arc::clone(&self.input), DataPosition::default(), End::Epoch)
    }

    /// What becomes of the documents in the first epoch. All tokens are made for it, so that each record is known to be good
    /// afterwards. Other epochs may have a few rows more or fewer, since other documents meet in a window.
    ///
    /// # Errors
    ///
    /// Those of files and records, and [`DataError::Untrained`] where there is no token to train on.
    pub fn summary(&self) -> Result<DataSummary, DataError> {
        let mut windows = self.windows()?;
        let mut counts = DataCounts::default();
        loop {
            let window = windows.window()?;
            counts += window.counts;
            if window.next.epoch > 0 {
                break;
            }
        }
        let summary = self.input.summary(counts);
        match counts.trained {
            0 => Err(DataError::Untrained {
                summary: summary.to_string(),
            }),
            _ => Ok(summary),
        }
    }

    /// Records: lines, entries of lists, and parts of texts. [`DataPosition::document`] counts them.
    pub fn records(&self) -> u64 {
        self.input.index.len()
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.input.index.bytes()
    }

    /// A hash of the bytes of all files. A run that is resumed compares it.
    pub fn fingerprint(&self) -> u64 {
        self.input.index.fingerprint
    }

    /// The first row as text, with marks around all that is trained on: [`shown`].
    ///
    /// # Errors
    ///
    /// Those of files and records, and [`DataError::Untrained`] where there is no row.
    pub fn example(&self) -> Result<String, DataError> {
        let mut windows = self.windows()?;
        let mut counts = DataCounts::default();
        loop {
            let mut window = windows.window()?;
            counts += window.counts;
            if let Some(row) = window.rows.next() {
                let tokenizer = self.input.encoder.tokenizer();
                return shown(&Batch::new(&[row]), 0, tokenizer).map_err(DataError::Shown);
            }
            if window.next.epoch > 0 {
                let summary = self.input.summary(counts).to_string();
                return Err(DataError::Untrained { summary });
            }
        }
    }

    /// The windows of the first epoch, and more.
    fn windows(&self) -> Result<Windows, DataError> {
        let start = Start {
            epoch: 0,
            document: 0,
        };
        Windows::new(Arc::clone(&self.input), start)
    }
}
