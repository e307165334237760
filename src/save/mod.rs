//! Saving: the weights of a plan, packed on the way, as a checkpoint that the Python libraries read.
//!
//! ```text
//! plan ─► pipeline ─► packed weight ─► Writer: its tensors ─► shards, index, config.json, tokenizer
//! ```
//!
//! Plain weights keep the type they are stored in. A weight is written as soon as it is packed, so memory is
//! what the pipeline has in flight and one weight.
//!
//! # When it is interrupted
//!
//! Every finished weight is told of in a journal beside the files, with a checksum, and a save with
//! [`resume`](SaveConfig::resume) goes on after the last of them: after an error, a cancel, a full disk or `kill -9`, when
//! nothing that was told of is lost; after a loss of power, when up to a shard may be. Until `config.json` is there the folder
//! is no model.

mod error;
mod folder;
mod identity;
mod journal;
mod layout;
mod shard;

use std::path::{Path, PathBuf};

pub use self::{error::SaveError, identity::Difference};
pub(crate) use self::{
    folder::{FolderSink, create, find, is_kept},
    identity::{Identity, becomes},
    layout::Layout,
};
use crate::{
    dialect::To,
    plan::{Action, Plan, Stored},
    report::LoadReport,
    source::checkpoint::GENERATION_CONFIG,
};

/// Small files of a model that are copied as they are.
const COPIED: [&str; 10] = [
    GENERATION_CONFIG,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
];

/// Where to save, and in which dialect.
#[derive(Debug, Clone)]
pub struct SaveConfig {
    folder: PathBuf,
    dialect: Option<To>,
    shard_bytes: u64,
    nested: Option<bool>,
    resume: bool,
    /// Whether this is for loads to come: in any dialect, with the journal, which says what it is of.
    kept: bool,
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
    /// source or configuration are others ([`SaveError::Changed`]). With nothing to go on with, the save begins. Observers
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

/// What was saved.
#[derive(Debug, Clone, serde::Serialize)]
#[non_exhaustive]
pub struct Saved {
    /// The folder.
    pub folder: PathBuf,
    /// The dialect; `None` where no weight is packed.
    pub dialect: Option<&'static str>,
    /// Files of weights.
    pub files: Vec<String>,
    /// Bytes of all tensors in them.
    pub bytes_written: u64,
    /// Weights that an interrupted save had finished. The report tells of them without time and bytes read.
    pub resumed: usize,
    /// How the weights came about.
    pub report: LoadReport,
}

/// What is saved of a plan: plain weights in the type they are stored in, and scales nested as asked.
pub(crate) fn adapt(plan: &mut Plan, to: &SaveConfig) {
    keep_types(plan);
    for step in &mut plan.steps {
        if let (Action::Keep(format), Some(nested)) = (&mut step.action, to.nested) {
            *format = format.renested(nested);
        }
    }
}

/// Plain weights stay in the type they are stored in.
pub(crate) fn keep_types(plan: &mut Plan) {
    for step in &mut plan.steps {
        if let (Stored::Plain(float), Action::Dense(dtype)) = (&step.source, &mut step.action) {
            *dtype = *float;
        }
    }
}
