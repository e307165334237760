//! Where to save, and in which dialect.

use std::path::{Path, PathBuf};

use crate::dialect::To;

/// Where to save, and in which dialect.
#[derive(Debug, Clone)]
pub struct SaveConfig {
    pub(crate) folder: PathBuf,
    pub(crate) dialect: Option<To>,
    pub(crate) shard_bytes: u64,
    pub(crate) nested: Option<bool>,
    pub(crate) resume: bool,
    /// Whether this is for loads to come: in any dialect, with the journal, which says what it is of.
    pub(crate) kept: bool,
}

impl SaveConfig {
    /// Into `folder`, which is made and has to be empty.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            dialect: None,
            shard_bytes: 5_000_000_000,
            nested: None,
            resume: false,
            kept: false,
        }
    }

    /// For loads to come. Of a folder that another process writes the end is waited for.
    pub(crate) fn kept(folder: PathBuf) -> Self {
        Self {
            resume: true,
            kept: true,
            ..Self::new(folder)
        }
    }

    /// Whether to go on with a save into the same folder that was interrupted: weights that are in its files are
    /// neither read nor packed again, and the files become those that an uninterrupted save writes. Refused where
    /// source or configuration are others ([`SaveError::Changed`](crate::place::SaveError::Changed)). With nothing to go on with, the save begins. Observers
    /// are told of what is left alone, the report tells of all.
    pub fn resume(mut self, resume: bool) -> Self {
        self.resume = resume;
        self
    }

    /// Whether the scales of 4-bit weights that the checkpoint has packed become nested or plain; as they are, if not
    /// given. Plain ones are exactly those that the nested give; nested ones are the nearest codes.
    pub fn nested(mut self, nested: bool) -> Self {
        self.nested = Some(nested);
        self
    }

    /// The dialect; that in which most of the world reads the format, if not given.
    pub fn dialect(mut self, dialect: To) -> Self {
        self.dialect = Some(dialect);
        self
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn named(&self) -> Option<To> {
        self.dialect
    }

    /// Bytes of a shard, 5 GB if not given. A weight that is larger gets a shard of its own.
    pub fn shard_bytes(mut self, bytes: u64) -> Self {
        self.shard_bytes = bytes;
        self
    }
}
