//! Files of other projects that cannot be seen as a checkpoint.

use super::TorchError;
use crate::{
    model::ConfigError,
    source::{BurnpackError, IndexError, PickleError, SourceError, ZipError, gguf::GgufError},
};

/// A file that cannot be seen as a checkpoint. Each variant names the file, but for those of what it has in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContainerError {
    /// The header is wrong.
    #[error(transparent)]
    Header(#[from] Box<GgufError>),

    /// The file could not be read.
    #[error(transparent)]
    Source(#[from] SourceError),

    /// Several files, or none, of which one was meant.
    #[error(
        "{at} has {found}; name one of them (MODEL:FILE of the hub, the path of a file elsewhere): {files}"
    )]
    Choice {
        /// The place.
        at: String,
        /// What is there.
        found: String,
        /// The files.
        files: String,
    },

    /// A key that has to be there.
    #[error("{file}: the key {key} is missing; convert the model again with llama.cpp of today")]
    NoKey {
        /// The file.
        file: String,
        /// The key.
        key: String,
    },

    /// The value of a key cannot be, or asks for what is not supported.
    #[error("{file}: {key} is {found}, and has to be {expected}")]
    Value {
        /// The file.
        file: String,
        /// The key.
        key: String,
        /// The value, as it prints.
        found: String,
        /// The values that can be.
        expected: String,
    },

    /// A key that may change the numbers of the model, in a way that is not known.
    #[error(
        "{file}: the key {key} (which is {found}) is not known here, and may change what the model computes; take the model that the file was made from, in safetensors"
    )]
    UnknownKey {
        /// The file.
        file: String,
        /// The key.
        key: String,
        /// The value, as it prints.
        found: String,
    },

    /// A tensor that the architecture does not have.
    #[error(
        "{file}: the tensor {tensor} is not known for the architecture {architecture}; take the model that the file was made from, in safetensors"
    )]
    UnknownTensor {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// The architecture.
        architecture: &'static str,
    },

    /// A tensor of another shape than the keys say.
    #[error(
        "{file}: tensor {tensor} is {found:?}, and {heads} heads do not divide its rows; the file is damaged, convert it again"
    )]
    Heads {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Its shape, outermost first.
        found: Vec<usize>,
        /// Heads by the keys.
        heads: usize,
    },

    /// A part of a model that is in several files, which does not fit the others.
    #[error("{file}: is {found}, and has to be {expected}")]
    Part {
        /// The file.
        file: String,
        /// What it says of itself.
        found: String,
        /// What it has to say.
        expected: String,
    },

    /// A model in more parts than a GGUF file can count.
    #[error(
        "{file} would be written to {count} GGUF files, and {max} are the most that a model can be in; let them be larger (`--shard-size`)"
    )]
    Parts {
        /// The checkpoint.
        file: String,
        /// How many there would be.
        count: usize,
        /// The most.
        max: usize,
    },

    /// A mixture of types for what has no layers that are known.
    #[error(
        "{mixture} chooses types by the layers of a model, and {reason}; take a single type, and rules for other matrices (`--rule`)"
    )]
    Mixture {
        /// The mixture.
        mixture: String,
        /// Why its layers are not known.
        reason: String,
    },

    /// A model whose architecture is not written.
    #[error(
        "{file} is a model of the type {found}, and GGUF files are written of {known}; write another format (`--to`)"
    )]
    ModelType {
        /// The checkpoint.
        file: String,
        /// The `model_type`.
        found: String,
        /// Those that are written.
        known: String,
    },

    /// A tensor that a GGUF file cannot have.
    #[error("{tensor} of {file} cannot be written to a GGUF file: it {reason}")]
    Unwritable {
        /// The checkpoint.
        file: String,
        /// The tensor.
        tensor: String,
        /// Why not, and what would help.
        reason: String,
    },

    /// A model that the keys of a GGUF file do not say.
    #[error(
        "{file} cannot be written to a GGUF file: `{field}` of the model is {model}, and llama.cpp would read {read}; write another format (`--to`)"
    )]
    NotSaid {
        /// The checkpoint.
        file: String,
        /// The part of the model.
        field: String,
        /// Its value.
        model: String,
        /// The value that the file would say.
        read: String,
    },

    /// A tokenizer that a GGUF file cannot say.
    #[error(
        "the tokenizer of {file} cannot be written to a GGUF file: {reason}; llama.cpp takes a model without one if the files of the tokenizer are moved elsewhere"
    )]
    Vocabulary {
        /// The checkpoint.
        file: String,
        /// Why not.
        reason: String,
    },

    /// Two matrices that do not unfold to one.
    #[error(
        "{file}: {keys} and {values}, which do not go together: [heads, rank, features] and [heads, features, rank]"
    )]
    Unfolded {
        /// The file.
        file: String,
        /// The tensor of keys and its shape.
        keys: String,
        /// The tensor of values and its shape.
        values: String,
    },

    /// A norm, or another vector whose values change while they are read, that is not in `f32`.
    #[error(
        "{file}: tensor {tensor} is a vector that norms or fades, and has to be F32; convert the model again with llama.cpp of today"
    )]
    Norm {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
    },

    /// A file of PyTorch whose tensors cannot be found.
    #[error(transparent)]
    Torch(#[from] Box<TorchError>),

    /// A pickle that is not read.
    #[error(transparent)]
    Pickle(#[from] Box<PickleError>),

    /// A zip archive that is not read.
    #[error(transparent)]
    Zip(#[from] Box<ZipError>),

    /// A burnpack file that is not read.
    #[error(transparent)]
    Burnpack(#[from] Box<BurnpackError>),

    /// The list of shards is wrong.
    #[error(transparent)]
    Index(#[from] IndexError),

    /// Shards without a list, of which some are not there.
    #[error(
        "{at}: has {shard} and no list of shards, and the shards {missing} of {count} are missing"
    )]
    MissingShards {
        /// The source.
        at: String,
        /// A shard that is there.
        shard: String,
        /// The numbers of the missing ones.
        missing: String,
        /// How many there should be.
        count: usize,
    },

    /// Weights of more than one saving.
    #[error("{at}: {} and {} may be of different models; name the file, or take the others away", .files[0], .files[1])]
    Ambiguous {
        /// The source.
        at: String,
        /// Two of the files.
        files: [String; 2],
    },

    /// The configuration that the keys make is refused.
    #[error("{file}, as config.json: {source}")]
    Config {
        /// The file.
        file: String,
        /// The reason.
        source: Box<ConfigError>,
    },
}

impl From<GgufError> for ContainerError {
    fn from(error: GgufError) -> Self {
        Self::Header(Box::new(error))
    }
}

impl From<TorchError> for ContainerError {
    fn from(error: TorchError) -> Self {
        Self::Torch(Box::new(error))
    }
}

impl From<PickleError> for ContainerError {
    fn from(error: PickleError) -> Self {
        Self::Pickle(Box::new(error))
    }
}

impl From<ZipError> for ContainerError {
    fn from(error: ZipError) -> Self {
        Self::Zip(Box::new(error))
    }
}

impl From<BurnpackError> for ContainerError {
    fn from(error: BurnpackError) -> Self {
        Self::Burnpack(Box::new(error))
    }
}
