//! What is read, and how it becomes rows.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::error::DataError;

/// The time that templates see by default, in seconds since 1970: 26 July 2024, which templates of Llama 3 write where they
/// cannot ask for the date.
const DATE: u64 = 1_721_952_000;

/// What is read, and how it becomes rows.
///
/// ```
/// use firebox::train::{DataConfig, DataOrder};
///
/// let config = DataConfig {
///     length: 512,
///     batch: 4,
///     order: DataOrder::Shuffled { seed: 1 },
///     ..DataConfig::new(["corpus/", "chats.jsonl"])
/// };
/// # assert_eq!(config.files.len(), 2);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// Files and folders.
    pub files: Vec<PathBuf>,
    /// Tokens of the longest row.
    pub length: usize,
    /// Rows of a batch.
    pub batch: usize,
    /// Whether several documents share a row.
    pub packing: RowPacking,
    /// The order of the documents in each epoch.
    pub order: DataOrder,
    /// Threads that make tokens ahead of the training; 0: tokens are made when a batch is asked for. The batches are the same.
    pub workers: usize,
    /// The time that chat templates see, in seconds since 1970. It is fixed, so that a run that is resumed on another day
    /// reads the same tokens.
    pub date: u64,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            files: Vec::new(),
            length: 1024,
            batch: 1,
            packing: RowPacking::default(),
            order: DataOrder::default(),
            workers: 1,
            date: DATE,
        }
    }
}

impl DataConfig {
    /// Rows of 1024 tokens, one a batch, packed and shuffled.
    pub fn new<P: Into<PathBuf>>(files: impl IntoIterator<Item = P>) -> Self {
        Self {
            files: files.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }

    pub(super) fn check(&self) -> Result<(), DataError> {
        for (setting, value) in [("length", self.length), ("batch", self.batch)] {
            if value == 0 || u32::try_from(value).is_err() {
                return Err(DataError::Setting { setting, value });
            }
        }
        if self.files.is_empty() {
            return Err(DataError::Nothing);
        }
        Ok(())
    }
}

/// Whether several documents share a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RowPacking {
    /// Documents fill rows by best fit. A token sees those of its own document alone.
    #[default]
    BestFit,
    /// A row for each document.
    None,
}

/// The order of the documents in an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataOrder {
    /// As the files have them.
    AsWritten,
    /// Another order in each epoch, by the seed.
    Shuffled {
        /// The seed.
        seed: u64,
    },
}

impl Default for DataOrder {
    fn default() -> Self {
        Self::Shuffled { seed: 0 }
    }
}
