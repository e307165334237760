//! States of optimizers that cannot be read or written.

use std::{io, path::PathBuf};

/// A state of an optimizer that cannot be read or written, or is not that of the model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OptimizerError {
    /// A file that cannot be read or written.
    #[error("{}: {source}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Not a file of tensors.
    #[error("{}: {source}; the file is damaged, take the checkpoint before this one", file.display())]
    Tensors {
        /// The file.
        file: PathBuf,
        /// Why not.
        source: safetensors::SafeTensorError,
    },
    /// A parameter of the model is not in the file.
    #[error(
        "{}: there is no `{tensor}` for the parameter `{parameter}`, which the model trains: the file has {found} parameters, the model {trained}; load the model with the adapter of the checkpoint",
        file.display()
    )]
    Missing {
        /// The file.
        file: PathBuf,
        /// The parameter, by its path in the model.
        parameter: String,
        /// The tensor of its state.
        tensor: &'static str,
        /// Parameters in the file.
        found: usize,
        /// Parameters that the model trains.
        trained: usize,
    },
    /// The file has the state of something that the model does not train.
    #[error(
        "{}: `{tensor}` belongs to no parameter that the model trains: the file has {found} parameters, the model {trained}; load the model with the adapter of the checkpoint",
        file.display()
    )]
    Unused {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Parameters in the file.
        found: usize,
        /// Parameters that the model trains.
        trained: usize,
    },
    /// The state of a parameter of another shape or type.
    #[error("{}: `{parameter}.{tensor}` is {found}, and has to be {expected}", file.display())]
    Wrong {
        /// The file.
        file: PathBuf,
        /// The parameter, by its path in the model.
        parameter: String,
        /// The tensor of its state.
        tensor: &'static str,
        /// Type and shape.
        found: String,
        /// Type and shape.
        expected: String,
    },
    /// Moments in another form.
    #[error(
        "{}: the moments of `{parameter}` are {}, and the optimizer is {optimizer}: choose the one of the checkpoint",
        file.display(), if *eight_bits { "in 8 bits (adamw8bit)" } else { "in f32 (adamw)" }
    )]
    Form {
        /// The file.
        file: PathBuf,
        /// The parameter, by its path in the model.
        parameter: String,
        /// Whether the file has them in 8 bits.
        eight_bits: bool,
        /// The optimizer that was asked for.
        optimizer: String,
    },
}
