//! Multimodal models: the text model inside one is read like any other, from the object `text_config`.
//!
//! The list has those whose text model computes for a text the same as alone.

use serde::Serialize;

use crate::model::{error::ConfigError, fields::Fields};

/// A multimodal model whose text model is read.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Wrapper {
    /// The word for it in `model_type`.
    pub model_type: &'static str,
    /// The word for the text model where `text_config` has none.
    pub text: &'static str,
    /// Of `tie_word_embeddings`.
    #[serde(skip)]
    tied: bool,
}

static WRAPPERS: &[Wrapper] = &[
    Wrapper {
        model_type: "gemma3",
        text: "gemma3_text",
        tied: true,
    },
    Wrapper {
        model_type: "gemma4",
        text: "gemma4_text",
        tied: true,
    },
    Wrapper {
        model_type: "llama4",
        text: "llama4_text",
        tied: false,
    },
    Wrapper {
        model_type: "mistral3",
        text: "mistral",
        tied: true,
    },
    Wrapper {
        model_type: "qwen3_5",
        text: "qwen3_5_text",
        tied: false,
    },
    Wrapper {
        model_type: "qwen3_5_moe",
        text: "qwen3_5_moe_text",
        tied: false,
    },
];

/// The text model of a multimodal one.
pub(super) struct Text<'a> {
    /// Its `model_type`.
    pub(super) model_type: &'a str,
    /// Its fields.
    pub(super) fields: Fields<'a>,
    /// Whether its embedding is the head too, which the fields around it say.
    pub(super) tied: bool,
}

/// Every multimodal model whose text model is read.
pub fn wrappers() -> impl Iterator<Item = &'static Wrapper> {
    WRAPPERS.iter()
}

/// The text model inside the multimodal one that the `fields` of a file are of, if they are.
pub(super) fn text<'a>(
    model_type: &str,
    fields: Fields<'a>,
) -> Result<Option<Text<'a>>, ConfigError> {
    const FIELD: &str = "text_config";
    let mut known = WRAPPERS.iter();
    let Some(wrapper) = known.find(|wrapper| wrapper.model_type == model_type) else {
        return Ok(None);
    };
    let inner = fields.inside(FIELD)?;
    let inner = inner.ok_or_else(|| fields.missing(FIELD))?;
    let tied = fields.flag("tie_word_embeddings")?;
    Ok(Some(Text {
        model_type: inner.text("model_type")?.unwrap_or(wrapper.text),
        fields: inner,
        tied: tied.unwrap_or(wrapper.tied),
    }))
}
