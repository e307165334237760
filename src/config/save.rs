//! Where to save, and in which dialect.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::To;

/// Where to save, and in which dialect.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SaveConfig {
    pub(crate) folder: PathBuf,
    #[serde(default)]
    pub(crate) dialect: Option<To>,
    #[serde(default)]
    pub(crate) shard_bytes: Option<u64>,
    #[serde(default)]
    pub(crate) nested: Option<bool>,
    #[serde(default)]
    pub(crate) resume: bool,
    /// Whether this folder is part of the cache of packed weights: written in any dialect, and its journal stays, since
    /// it says which source and configuration the weights come from.
    #[serde(skip)]
    pub(crate) cache: bool,
}

/// Bytes of a shard if not given, as Python's libraries write them.
const SHARD_BYTES: u64 = 5_000_000_000;

impl SaveConfig {
    /// Into `folder`, which is made and has to be empty.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            dialect: None,
            shard_bytes: None,
            nested: None,
            resume: false,
            cache: false,
        }
    }

    /// A folder of the cache of packed weights. Waits if another process is writing the same folder.
    pub(crate) fn for_cache(folder: PathBuf) -> Self {
        Self {
            resume: true,
            cache: true,
            ..Self::new(folder)
        }
    }

    /// Whether to resume a save into the same folder that was interrupted: weights that are in its files are
    /// neither read nor packed again, and the files become those that an uninterrupted save writes. Refused where
    /// source or configuration differ ([`SaveError::Changed`](crate::place::SaveError::Changed)). Where there is nothing
    /// to resume, the save begins; where an earlier save has completed the folder, it stays as it is and the save succeeds.
    /// Events report the remaining weights only, the report all of them.
    pub fn resume(mut self, resume: bool) -> Self {
        self.resume = resume;
        self
    }

    /// Whether the scales of 4-bit weights that the checkpoint has packed become nested or plain; unchanged if not
    /// given. Plain scales have exactly the values of the nested ones; nested scales are the nearest codes.
    pub fn nested(mut self, nested: bool) -> Self {
        self.nested = Some(nested);
        self
    }

    /// The dialect. If not given, the one in which most libraries read the format.
    pub fn dialect(mut self, dialect: To) -> Self {
        self.dialect = Some(dialect);
        self
    }

    /// Whether it is a folder of the cache of packed weights.
    pub(crate) const fn is_for_cache(&self) -> bool {
        self.cache
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn named(&self) -> Option<To> {
        self.dialect
    }

    /// Bytes of a shard, 5 GB if not given; a GGUF file is one file then. A larger weight gets its own shard.
    pub fn shard_bytes(mut self, bytes: u64) -> Self {
        self.shard_bytes = Some(bytes);
        self
    }

    /// Bytes that a shard may have.
    pub(crate) fn shard_bytes_max(&self, is_gguf: bool) -> u64 {
        let usual = if is_gguf { u64::MAX } else { SHARD_BYTES };
        self.shard_bytes.unwrap_or(usual)
    }
}
