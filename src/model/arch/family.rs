//! One family of models.

use serde::Serialize;

use crate::model::{decoder::Spec, error::ConfigError, fields::Fields};

/// A family of models that [`CausalLm`](crate::model::CausalLm) reads.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Family {
    /// The word for it in `model_type`.
    pub model_type: &'static str,
    /// The family whose tensors and arithmetic it has; only defaults of absent fields differ.
    pub alias_of: Option<&'static str>,
    /// Models of `tests/golden/models` whose logits, hidden states of every layer and greedy tokens are those of
    /// transformers 5.23.0.
    pub verified: &'static [&'static str],
    /// Reads the rest of the file. The first argument is the word.
    #[serde(skip)]
    pub(super) read: Read,
}

/// Turns the fields of a file into a [`Spec`]; the first argument is the word in `model_type`.
type Read = fn(&'static str, Fields<'_>) -> Result<Spec, ConfigError>;

impl Family {
    pub(super) const fn new(model_type: &'static str, read: Read) -> Self {
        Self {
            model_type,
            alias_of: None,
            verified: &[],
            read,
        }
    }

    /// The same models under another name.
    pub(super) const fn alias_of(self, family: &'static str) -> Self {
        Self {
            alias_of: Some(family),
            ..self
        }
    }

    /// Compared with these models of `tests/golden/models`.
    pub(super) const fn verified(self, models: &'static [&'static str]) -> Self {
        Self {
            verified: models,
            ..self
        }
    }
}
