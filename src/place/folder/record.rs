//! The record of a complete checkpoint: its source and configuration, so that the same save again knows that nothing is left.
//!
//! The journal of a save goes when the checkpoint is complete, since a published folder has no trace of the machine. The
//! record has options, lengths and checksums, and no path.

use std::{collections::BTreeMap, io, path::Path};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    SaveError, SavedFolder, file_sum::FileSum, identity::Identity, journal::Journal, output::Output,
};
use crate::{
    config::To,
    source::{GGUF, Source, SourceExt},
};

/// Its name in the folder.
pub(super) const RECORD: &str = ".firebox-saved.json";

/// The version that this program writes and reads.
const VERSION: u64 = 1;

/// A complete checkpoint.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    saved: u64,
    /// The short form of an [`Identity`].
    identity: Value,
    /// The action of each weight, including choices made by measuring.
    becomes: Vec<String>,
    dialect: Option<String>,
    /// Bytes of all tensors.
    bytes: u64,
    /// Files of weights, and the bytes of each.
    files: BTreeMap<String, u64>,
    /// The model on the hub that it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base: Option<String>,
}

impl Record {
    /// Of the save of `source` with a journal: its dialect, bytes of all tensors, files of weights.
    pub(super) fn new(
        source: &dyn Source,
        journal: &Journal,
        dialect: Option<To>,
        bytes: u64,
        files: BTreeMap<String, FileSum>,
    ) -> Self {
        let files = files.into_iter();
        Self {
            saved: VERSION,
            identity: journal.identity_in_short().clone(),
            becomes: journal.becomes().to_vec(),
            dialect: dialect.map(|dialect| dialect.name().to_owned()),
            bytes,
            files: files.map(|(name, sum)| (name, sum.bytes())).collect(),
            base: id_on_hub(source),
        }
    }

    /// The record of an output, if it has one of this version.
    pub(super) fn find(output: &dyn Output) -> io::Result<Option<Self>> {
        let text = output.read(RECORD)?.unwrap_or_default();
        let record: Option<Self> = serde_json::from_slice(&text).ok();
        Ok(record.filter(|record| record.saved == VERSION))
    }

    /// Refuses another source or configuration, and files of weights that are not there any more.
    pub(super) fn check(
        &self,
        output: &dyn Output,
        folder: &Path,
        now: &Identity,
    ) -> Result<(), SaveError> {
        if let Some(difference) = now.difference_in_short(&self.identity) {
            return Err(SaveError::Complete {
                folder: folder.to_owned(),
                difference: Some(Box::new(difference)),
            });
        }
        for (file, was) in &self.files {
            let path = output.path(file);
            let now = output.len(file).map_err(SaveError::at(&path, 0))?;
            if now != Some(*was) {
                return Err(SaveError::Lost {
                    path,
                    was: *was,
                    now,
                });
            }
        }
        Ok(())
    }

    /// Whether the files of weights are GGUF, which have the configuration inside.
    pub(super) fn is_gguf(&self) -> bool {
        !self.files.is_empty() && self.files.keys().all(|file| file.ends_with(GGUF))
    }

    /// The action of each weight.
    pub(crate) fn becomes(&self) -> &[String] {
        &self.becomes
    }

    /// The folder, all of whose `weights` were there.
    pub(crate) fn saved(self, folder: &Path, weights: usize) -> SavedFolder {
        let dialect = self.dialect.and_then(|name| name.parse::<To>().ok());
        SavedFolder {
            folder: folder.to_owned(),
            dialect: dialect.map(To::name),
            files: self.files.into_keys().collect(),
            bytes: self.bytes,
            resumed: weights,
        }
    }
}

/// `org/name` of a source on the hub, which alone names its state by a commit.
fn id_on_hub(source: &dyn Source) -> Option<String> {
    let commit = source.version().ok()??;
    let is_commit = commit.len() == 40 && commit.chars().all(|digit| digit.is_ascii_hexdigit());
    let described = source.describe();
    let (id, _) = described.split_once('@')?;
    is_commit.then(|| id.to_owned())
}
