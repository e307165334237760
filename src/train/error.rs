//! Runs that cannot begin, continue or end.

use std::{
    io,
    path::{Path, PathBuf},
};

use firebox_kernels::linear::Compute;

use super::{
    checkpoint::CheckpointFault, data::DataError, folder::FolderError, keys::FinetuneConfigError,
    optimizer::GradientError,
};
use crate::{
    adapter::AdapterError, collective::CollectiveError, error::Error, model::PassError,
    place::folder::Difference,
};

/// A training run that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A setting.
    #[error(transparent)]
    Config(#[from] FinetuneConfigError),
    /// The base, its tokenizer or its device.
    #[error(transparent)]
    Load(Box<Error>),
    /// The adapter.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// The data.
    #[error(transparent)]
    Data(Box<DataError>),
    /// The data to measure with.
    #[error("{}", eval_words(file, source))]
    Eval {
        /// The file or folder.
        file: PathBuf,
        /// What is wrong.
        source: Box<DataError>,
    },
    /// An arithmetic whose products the gradients do not fit.
    #[error(
        "products in {compute} round inputs to bytes, and gradients would go back as if they did not; train with `compute` f32 or bf16"
    )]
    Compute {
        /// What was asked for.
        compute: Compute,
    },
    /// Rows that are longer than the model reads.
    #[error(
        "rows of {length} tokens are asked for, and the model has {positions} positions; set `length` (--length) to {positions} at most"
    )]
    Length {
        /// Tokens of a row.
        length: usize,
        /// Positions of the model.
        positions: usize,
    },
    /// A file of the run cannot be read or written.
    #[error("{}: {source}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another process is writing the folder.
    #[error("{} is being written by another process; wait until it ends", folder.display())]
    InUse {
        /// The folder.
        folder: PathBuf,
    },
    /// A new run into the folder of another one.
    #[error("{} has {} of an earlier run; go on with it (--resume), or name another folder (--out)", folder.display(), found.display())]
    Exists {
        /// The folder.
        folder: PathBuf,
        /// A part of the earlier run.
        found: PathBuf,
    },
    /// A run in the folder of its own data.
    #[error("{} is the folder of `{key}` too, whose files would then be others when the run goes on; name another folder (--out)", folder.display())]
    AmongData {
        /// The folder.
        folder: PathBuf,
        /// The setting that names it.
        key: &'static str,
    },
    /// A run in the folder of a model.
    #[error("{} is the folder of a model, since it has config.json; name another folder (--out)", folder.display())]
    Model {
        /// The folder.
        folder: PathBuf,
    },
    /// A checkpoint under another name than its own.
    #[error(
        "{} is the checkpoint of step {step}; give the folder its name `checkpoint-{step}` again, or take it out of the folder of the run",
        folder.display()
    )]
    Renamed {
        /// The checkpoint.
        folder: PathBuf,
        /// Its step.
        step: u64,
    },
    /// A run without its checkpoints.
    #[error(
        "{} tells of {step} steps, and no checkpoint is beside it; put the folders `checkpoint-N` back, or remove the file to begin anew",
        metrics.display()
    )]
    NoCheckpoint {
        /// The metrics of the run.
        metrics: PathBuf,
        /// The last step.
        step: u64,
    },
    /// A run in a checkpoint of another.
    #[error(
        "{} is a checkpoint; name the folder of the run that it is in (--out)",
        folder.display()
    )]
    IsCheckpoint {
        /// The checkpoint.
        folder: PathBuf,
    },
    /// The run in the folder is another one.
    #[error(
        "{} is of another run: {difference}; set it as it was, or name another folder (--out)",
        checkpoint.display()
    )]
    Changed {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// The first difference.
        difference: Box<Difference>,
    },
    /// A checkpoint that cannot be read.
    #[error("{source}; {}", remedy(checkpoint, earlier.as_deref()))]
    Damaged {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// What is wrong.
        source: Box<CheckpointFault>,
        /// The one before it.
        earlier: Option<PathBuf>,
    },
    /// A file of the run that cannot be written while it trains.
    #[error("after step {step}, {source}; {}", kept_words(kept.as_deref()))]
    Unsaved {
        /// Steps that were done.
        step: u64,
        /// Why not.
        source: Box<CheckpointFault>,
        /// The last checkpoint that is there.
        kept: Option<PathBuf>,
    },
    /// A loss or a gradient that is no number.
    #[error(
        "step {step}, batch {batch} of it: the {what} is {value}; a lower learning rate or another type of activations (--dtype) may help; {}",
        kept_words(kept.as_deref())
    )]
    NotFinite {
        /// The step, counted from 1.
        step: u64,
        /// The batch of the step, counted from 1.
        batch: usize,
        /// What is no number.
        what: &'static str,
        /// Its value.
        value: f64,
        /// The last checkpoint that is there.
        kept: Option<PathBuf>,
    },
    /// A step after which a trained value is no number.
    #[error(
        "after step {step}, {tensor} has values that are no numbers; a lower learning rate may help; {}",
        kept_words(kept.as_deref())
    )]
    Diverged {
        /// Steps that were done.
        step: u64,
        /// The path of the tensor in the model.
        tensor: String,
        /// The last checkpoint that is there.
        kept: Option<PathBuf>,
    },
    /// Gradients that no step can be made with.
    #[error("step {step}: {source}; {}", kept_words(kept.as_deref()))]
    Gradient {
        /// The step, counted from 1.
        step: u64,
        /// What is wrong.
        source: GradientError,
        /// The last checkpoint that is there.
        kept: Option<PathBuf>,
    },
    /// Data that were found wrong, or changed, while the run was under way.
    #[error("step {step}: {source}; {}", kept_words(kept.as_deref()))]
    Batch {
        /// The step, counted from 1.
        step: u64,
        /// What is wrong.
        source: Box<DataError>,
        /// The last checkpoint that is there.
        kept: Option<PathBuf>,
    },
    /// Ranks that were started with different runs.
    #[error(
        "rank {rank} has another run than rank 0: {difference}; start all ranks with the same arguments, files and version"
    )]
    Differs {
        /// The rank.
        rank: usize,
        /// The first difference: rank 0's side, and that of the rank.
        difference: Box<Difference>,
    },
    /// Ranks whose trained values have become different.
    #[error(
        "after step {step}, rank {rank} has other trained values than rank 0, although both did the same steps: use processors and devices of one kind, and the same build; {}",
        kept_words(kept.as_deref())
    )]
    Apart {
        /// Steps that were done.
        step: u64,
        /// The rank.
        rank: usize,
        /// The last checkpoint that is there.
        kept: Option<PathBuf>,
    },
    /// Another rank of the run.
    #[error(transparent)]
    Ranks(#[from] CollectiveError),
    /// A batch that the model cannot be run on.
    #[error("step {step}, batch {batch} of it: {source}")]
    Pass {
        /// The step, counted from 1.
        step: u64,
        /// The batch of the step, counted from 1.
        batch: usize,
        /// What is wrong.
        source: Box<PassError>,
    },
    /// The run was asked to stop, and can be continued.
    #[error("stopped after step {step}; {} is there, and the same again with --resume goes on", checkpoint.display())]
    Stopped {
        /// Steps that were done.
        step: u64,
        /// The checkpoint that was written.
        checkpoint: PathBuf,
    },
}

impl From<Error> for TrainError {
    fn from(error: Error) -> Self {
        Self::Load(Box::new(error))
    }
}

impl From<FolderError> for TrainError {
    fn from(FolderError { path, source }: FolderError) -> Self {
        Self::File { file: path, source }
    }
}

impl From<DataError> for TrainError {
    fn from(error: DataError) -> Self {
        Self::Data(Box::new(error))
    }
}

/// The setting, and the file where the error does not name it.
fn eval_words(file: &Path, source: &DataError) -> String {
    let (file, source) = (file.display().to_string(), source.to_string());
    match source.contains(&file) {
        true => format!("`eval` (--eval): {source}"),
        false => format!("`eval` (--eval), {file}: {source}"),
    }
}

fn kept_words(kept: Option<&Path>) -> String {
    match kept {
        Some(kept) => format!("{} is there, and --resume goes on from it", kept.display()),
        None => "there is no checkpoint yet".to_owned(),
    }
}

fn remedy(checkpoint: &Path, earlier: Option<&Path>) -> String {
    let checkpoint = checkpoint.display();
    match earlier {
        Some(earlier) => format!(
            "remove {checkpoint}, and --resume goes on from {}",
            earlier.display()
        ),
        None => format!("there is no earlier one; remove {checkpoint} to begin anew"),
    }
}
