//! Verifying: how far each packed weight is from its source, and which fallback replaces a weight that is too far.
//!
//! ```text
//! plan ─► pipeline ─► finished weight ─► compared with its source ─► Stats ─► within the Limits?
//!                                          (read again, in tiles)               │ no
//!                       plan of these tensors alone ◄── the next fallback ◄─────┘
//! ```
//!
//! [`Loader::verify`](crate::Loader::verify) packs as a load would, on the same target, and compares each weight
//! with the values it was packed from. [`Loader::verify_against`](crate::Loader::verify_against) compares
//! the weights of a quantized checkpoint with the checkpoint that it was made from.
//!
//! [`LoadConfig::verify`](crate::LoadConfig::verify) does so during a load: the module gets a weight that is within the
//! limits, or else the first fallback that is.
//!
//! Memory holds one finished weight and the bytes in flight, a tile of the source among them. A device that packs also
//! holds the source of one part of the weight. The source is read once more than a load reads it, and again for each
//! fallback that is tried.
//!
//! # Special values
//!
//! Only values that are finite in the source and in the result are compared; the others are counted. If all values of a
//! weight are zero in both, its relative error, cosine and signal to noise are 0, 1 and infinite. If they are zero in the
//! source only, these are infinite, 0 and minus infinite.

use firebox_kernels::format::Format;

use crate::{
    config::Beyond,
    pipeline::{PipelineError, SinkError},
    plan::{Action, Step},
    source::StoredType,
};

/// Weights that cannot be compared, or are too far from their source to be loaded.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// Nothing is quantized.
    #[error(
        "no weight of {model} is quantized: say how, or name the checkpoint that it was made from"
    )]
    NothingPacked {
        /// The checkpoint.
        model: String,
    },
    /// Balanced weights differ from those of the checkpoint.
    #[error(
        "weights that are balanced before they are packed cannot be compared with those of the checkpoint; leave `presinq` out"
    )]
    Balanced,
    /// Weights of the cache can be verified only when they are packed, not when they are loaded.
    #[error(
        "weights that are kept packed cannot be compared with their source while they are loaded; leave out the limits, or the cache of packed weights"
    )]
    Cached,
    /// The checkpoint has the weight packed, and does not have its source.
    #[error(
        "{tensor} is packed as {format} in the checkpoint and its source is not there; name the checkpoint that it was made from, or take its values as the source of another quantization with `--requantize`"
    )]
    AlreadyPacked {
        /// The tensor.
        tensor: String,
        /// How it is packed.
        format: Format,
    },
    /// The weight exceeds the limits during a load, and so does every fallback.
    #[error(
        "{tensor} as {quant} is beyond the limits ({}), and none of {tried} fallbacks is within them; add a wider one, or `none`",
        .beyond.iter().map(Beyond::to_string).collect::<Vec<_>>().join(", ")
    )]
    Beyond {
        /// The tensor.
        tensor: String,
        /// The quantization that it was packed with.
        quant: String,
        /// The limits that it exceeds.
        beyond: Vec<Beyond>,
        /// Number of fallbacks that were tried, or that could not pack it.
        tried: usize,
    },
    /// The source lacks a tensor.
    #[error(
        "{against} has no tensor {tensor}; it is not what the quantized checkpoint was made from"
    )]
    Missing {
        /// The tensor.
        tensor: String,
        /// The source.
        against: String,
    },
    /// The source has another shape.
    #[error(
        "{tensor} is {found:?} in {against}, and {expected:?} in the quantized checkpoint; they are of different models"
    )]
    Shape {
        /// The tensor.
        tensor: String,
        /// The source.
        against: String,
        /// Its shape there.
        found: Vec<usize>,
        /// Its shape in the quantized checkpoint.
        expected: Vec<usize>,
    },
    /// The source does not have the tensor dense.
    #[error(
        "{tensor} is stored as {found} in {against}; what is compared with is F32, F16 or BF16"
    )]
    Dtype {
        /// The tensor.
        tensor: String,
        /// The source.
        against: String,
        /// Its type there.
        found: StoredType,
    },
}

/// Refuses weights that the checkpoint has packed.
pub(crate) fn refuse_packed(steps: &[Step]) -> Result<(), VerifyError> {
    for step in steps {
        if let Action::Adopt(format) = step.action {
            return Err(VerifyError::AlreadyPacked {
                tensor: step.slot.name.clone(),
                format,
            });
        }
    }
    Ok(())
}

/// The reason of a sink that refused a weight, where that is a [`VerifyError`]; any other error as it is.
pub(crate) fn refused(error: PipelineError) -> Result<VerifyError, PipelineError> {
    let PipelineError::Sink(SinkError::Refused { tensor, reason }) = error else {
        return Err(error);
    };
    match reason.downcast() {
        Ok(error) => Ok(*error),
        Err(reason) => Err(PipelineError::Sink(SinkError::Refused { tensor, reason })),
    }
}
