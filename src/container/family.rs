//! The architectures of llama.cpp that are read, and how they differ from those of transformers.

use super::ContainerError;

/// An architecture.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct GgufFamily {
    /// Its name in files.
    pub(super) name: &'static str,
    /// The `model_type` of transformers.
    pub(super) model_type: &'static str,
    /// Whether the rows of queries and keys are in the order that turns pairs of neighbours.
    pub(super) pairs: bool,
    /// Keys of floats and the fields that they are.
    pub(super) floats: &'static [(&'static str, &'static str)],
}

impl GgufFamily {
    const fn new(name: &'static str) -> Self {
        Self {
            name,
            model_type: name,
            pairs: false,
            floats: &[],
        }
    }

    const fn in_pairs(self) -> Self {
        Self {
            pairs: true,
            ..self
        }
    }
}

/// Llama is Mistral as well: both are converted to it.
static FAMILIES: [GgufFamily; 8] = [
    GgufFamily::new("gemma2"),
    GgufFamily {
        model_type: "gemma3_text",
        ..GgufFamily::new("gemma3")
    },
    GgufFamily {
        floats: &[
            ("attention.scale", "attention_multiplier"),
            ("embedding_scale", "embedding_multiplier"),
            ("residual_scale", "residual_multiplier"),
            ("logit_scale", "logits_scaling"),
        ],
        ..GgufFamily::new("granite").in_pairs()
    },
    GgufFamily::new("llama").in_pairs(),
    GgufFamily::new("olmo2"),
    GgufFamily::new("qwen2"),
    GgufFamily::new("qwen3"),
    GgufFamily::new("smollm3").in_pairs(),
];

/// The architecture of this name.
pub(super) fn family(file: &str, name: &str) -> Result<&'static GgufFamily, ContainerError> {
    let found = FAMILIES.iter().find(|family| family.name == name);
    found.ok_or_else(|| ContainerError::Architecture {
        file: file.to_owned(),
        found: name.to_owned(),
        known: FAMILIES
            .iter()
            .map(|family| family.name)
            .collect::<Vec<_>>()
            .join(", "),
    })
}
