//! Configurations that no model can be built from.

/// A `config.json` that an architecture cannot be built from.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A field is not there.
    #[error(
        "config.json: `{field}` is missing; add it, or take the config.json that was saved with these weights"
    )]
    Missing {
        /// The field.
        field: String,
    },
    /// A field has a value that cannot be.
    #[error("config.json: `{field}` is {found}, expected {expected}")]
    Value {
        /// The field.
        field: String,
        /// What the file says.
        found: String,
        /// What it should say.
        expected: String,
    },
    /// Another architecture.
    #[error(
        "config.json: `model_type` is \"{found}\"{}; known are {known}; models of other families can be inspected, planned, \
         quantized, converted and verified (`plan_tensors`, `save_tensors`, `verify_tensors`), not loaded",
        near(nearest.as_deref())
    )]
    Architecture {
        /// What the file says.
        found: String,
        /// The known family that is nearest, and by what.
        nearest: Option<String>,
        /// What can be loaded.
        known: String,
    },
    /// A model whose head makes no tokens.
    #[error(
        "config.json: `architectures` has {class}, whose head makes no text; such a model can be inspected, planned, quantized, \
         converted and verified with its head (`plan_tensors`, `save_tensors`, `verify_tensors`), not loaded"
    )]
    Purpose {
        /// The class.
        class: String,
    },
    /// Something this library does not do (yet).
    #[error(
        "config.json: `{field}` asks for {found}, which is not supported; supported: {supported}"
    )]
    Unsupported {
        /// The field, or the word of the [`Spec`](super::decoder::Spec) that the file as a whole asks for.
        field: String,
        /// What it asks for.
        found: String,
        /// What could be asked for.
        supported: String,
    },
    /// More tensors than any model has.
    #[error(
        "config.json asks for more than {max} tensors; its numbers of layers or experts cannot be right"
    )]
    TooManyTensors {
        /// How many there may be.
        max: usize,
    },
    /// A tensor that no file could hold.
    #[error(
        "config.json gives {tensor} the shape {shape:?}, and a tensor has {max} values at most; one of these numbers cannot be right"
    )]
    TooLarge {
        /// The tensor.
        tensor: String,
        /// Its shape, from numbers of the file.
        shape: Vec<usize>,
        /// How many values it may have.
        max: usize,
    },
}

fn near(nearest: Option<&str>) -> String {
    nearest.map_or(String::new(), |family| {
        format!(", and the nearest family is {family}")
    })
}
