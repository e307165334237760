//! Errors of loads and saves: one variant a stage, each with that stage's own error.
//!
//! Every message is complete: it contains the messages of its causes, so that printing the error alone is
//! enough. Programs can inspect the causes.

use std::path::PathBuf;

use crate::{
    adapter::AdapterError,
    collective::CollectiveError,
    config::RuleError,
    container::ContainerError,
    dialect::DialectError,
    expand::ExpandError,
    model::{BuildError, ConfigError},
    observe::Stopped,
    pipeline::PipelineError,
    place::{SaveError, VerifyError, folder::IdentityError},
    plan::PlanError,
    prepare::PrepareError,
    quant::SpecError,
    ranks::RankError,
    source::{CheckpointError, SourceError},
    target::TargetError,
    text::TokenizerError,
};

/// A load that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A quantization that could not be understood.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A rule or pattern that could not be understood.
    #[error(transparent)]
    Rule(#[from] RuleError),
    /// The device could not be opened.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The model was not found, or a file could not be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The files are not a checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The checkpoint is quantized in a way that is not supported, or its files contradict each other.
    #[error(transparent)]
    Dialect(#[from] DialectError),
    /// `config.json` describes something that cannot be built.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No plan could be made, or it cannot be carried out.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The plan could not be carried out.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// The weights could not be saved.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// A save was interrupted. The files in the folder stay, and a save with
    /// [`SaveConfig::resume`](crate::config::SaveConfig::resume) continues with them.
    #[error(
        "{source}; {done} of {total} weights are in {}, and the same again with `--resume` (`SaveConfig::resume`) makes the others",
        folder.display()
    )]
    Interrupted {
        /// The folder.
        folder: PathBuf,
        /// Weights in its files.
        done: usize,
        /// Weights of the plan.
        total: usize,
        /// The error that interrupted it.
        source: Box<Error>,
    },
    /// Weights cannot be compared with their source.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// The module could not be built from its weights.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// An adapter does not fit the model, or its files cannot be read.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// A file of another project cannot be seen as a checkpoint.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// The model gets no new blocks.
    #[error(transparent)]
    Expand(#[from] ExpandError),
    /// Several processes cannot load the model together.
    #[error(transparent)]
    Rank(Box<RankError>),
    /// The other ranks, among which the model is divided.
    #[error(transparent)]
    Collective(Box<CollectiveError>),
    /// The tokenizer could not be read.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// No file for weights to stream from can be made.
    #[error("{folder}: no file for weights to stream from can be made here: {source}")]
    StreamFile {
        /// The folder.
        folder: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The model lies on the hub, and this build cannot go there.
    #[error(
        "{model} is neither a folder nor a file, and this program was built without the feature `hub`"
    )]
    NoHub {
        /// The model that was asked for.
        model: String,
    },
    /// The model lies in a store or behind HTTP, and this build cannot go there.
    #[error("this program was built without the feature `remote`, which reads models at addresses")]
    NoRemote,
}

impl Error {
    /// Whether the load or save ended because it was asked to: by an observer, or by
    /// [`Running::cancel`](crate::Running::cancel). Anything else is a failure.
    pub fn is_cancelled(&self) -> bool {
        match self {
            Self::Pipeline(PipelineError::Cancelled { .. })
            | Self::Source(SourceError::Cancelled { .. }) => true,
            Self::Interrupted { source, .. } => source.is_cancelled(),
            _ => false,
        }
    }
}

/// An observer stopped the load.
impl From<Stopped> for Error {
    fn from(stopped: Stopped) -> Self {
        Self::Pipeline(stopped.into())
    }
}

impl From<CollectiveError> for Error {
    fn from(error: CollectiveError) -> Self {
        Self::Collective(Box::new(error))
    }
}

impl From<RankError> for Error {
    fn from(error: RankError) -> Self {
        Self::Rank(error.into())
    }
}

impl From<PrepareError> for Error {
    fn from(error: PrepareError) -> Self {
        match error {
            PrepareError::Plan(error) => error.into(),
            PrepareError::Pipeline(error) => error.into(),
        }
    }
}

impl From<IdentityError> for Error {
    fn from(error: IdentityError) -> Self {
        match error {
            IdentityError::Source(error) => error.into(),
            IdentityError::Checkpoint(error) => error.into(),
            IdentityError::Pipeline(error) => error.into(),
        }
    }
}
