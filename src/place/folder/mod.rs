//! Saving: the weights of a plan, packed on the way, as a checkpoint that the Python libraries read.
//!
//! ```text
//! plan ─► pipeline ─► packed weight ─► Writer: its tensors ─► shards, index, config.json, tokenizer
//! ```
//!
//! Dense weights stay in the type that they are stored in. A weight is written as soon as it is packed, so memory holds the
//! bytes in flight and one weight.
//!
//! # When it is interrupted
//!
//! A journal beside the files has a line for every finished weight, with a checksum, and a save with
//! [`resume`](SaveConfig::resume) goes on after the last of them: after an error, a cancel, a full disk or `kill -9`, when
//! nothing in the journal is lost; after a loss of power, when up to a shard may be. Until `config.json` is there the folder
//! is no model. A complete folder has a record of its source and configuration, by which the same save again finds nothing
//! left to do.

mod destination;
mod error;
mod file_sum;
mod identity;
mod journal;
mod kept;
mod layout;
mod local;
mod output;
mod put;
mod record;
#[cfg(feature = "remote")]
mod remote;
mod shard;
mod sink;
mod written;

use std::path::PathBuf;

pub(crate) use self::{
    destination::output,
    identity::{Identity, IdentityError, becomes, difference},
    journal::{JOURNAL, Journal},
    kept::{Kept, forget, look},
    layout::{FolderLayout, dialect_of},
    sink::{Earlier, FolderSink, find},
};
pub use self::{error::SaveError, identity::Difference};
use crate::{
    config::{Policy, SaveConfig},
    plan::{Action, Plan, Stored},
    quant::QuantSpec,
    source::{Checkpoint, CheckpointError, checkpoint::GENERATION_CONFIG},
};

/// Small files of a model that are copied as they are.
const COPIED: [&str; 19] = [
    GENERATION_CONFIG,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "tokenizer.model",
    "tiktoken.model",
    "qwen.tiktoken",
    "tekken.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
];

/// The names of all small files that are copied as they are; some of them may not be there.
pub(crate) fn copied(checkpoint: &Checkpoint) -> Result<Vec<String>, CheckpointError> {
    let fixed = COPIED.map(str::to_owned);
    Ok([&fixed, checkpoint.chat_templates()?.as_slice()].concat())
}

/// A folder that is finished.
#[derive(Debug)]
pub(crate) struct SavedFolder {
    pub(crate) folder: PathBuf,
    /// `None` where no weight is packed.
    pub(crate) dialect: Option<&'static str>,
    /// Files of weights.
    pub(crate) files: Vec<String>,
    /// Bytes of all tensors in them.
    pub(crate) bytes: u64,
    /// Weights that an interrupted save had finished.
    pub(crate) resumed: usize,
}

/// Makes a plan one that is saved: dense weights stay in their stored type, scales are nested as asked.
pub(crate) fn adapt(plan: &mut Plan, to: &SaveConfig) {
    as_stored(plan);
    for step in &mut plan.steps {
        if let (Action::Adopt(format), Some(nested)) = (&mut step.action, to.nested) {
            *format = format.renested(nested);
        }
    }
}

/// Dense weights that `policy` gives a type get it.
pub(crate) fn as_asked(plan: &mut Plan, policy: &Policy) {
    for step in &mut plan.steps {
        if let (Action::Dense(dtype), QuantSpec::Dense(asked)) =
            (&mut step.action, step.slot.quant(policy))
        {
            *dtype = asked;
        }
    }
}

/// Dense weights stay in the type that they are stored in.
pub(crate) fn as_stored(plan: &mut Plan) {
    for step in &mut plan.steps {
        if let (Stored::Plain(float), Action::Dense(dtype)) = (&step.stored, &mut step.action) {
            *dtype = *float;
        }
    }
}
