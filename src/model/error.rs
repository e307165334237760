//! Configurations that no model can be built from.

/// A `config.json` that an architecture cannot be built from.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A field is not there.
    #[error("config.json: `{field}` is missing")]
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
}

fn near(nearest: Option<&str>) -> String {
    nearest.map_or(String::new(), |family| {
        format!(", and the nearest family is {family}")
    })
}
