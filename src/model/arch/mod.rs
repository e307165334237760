//! Families of models: each file turns the `config.json` of one family into a [`Spec`].
//!
//! A new family is a file beside these and a line in [`FAMILIES`].

mod family;

mod nearest;

mod wrapper;

mod rotary;

mod common;
mod experts;

mod arcee;
mod cohere;
mod cohere2;
mod deepseek_v3;
mod exaone4;
mod gemma2;
mod gemma3;
mod gemma4;
mod glm;
mod glm4;
mod glm4_moe;
mod gpt2;
mod gpt_neox;
mod gpt_oss;
mod granite;
mod llama;
mod llama4;
mod ministral3;
mod mistral;
mod mixtral;
mod nemotron;
mod olmo2;
mod olmo3;
mod phi3;
mod qwen2;
mod qwen2_moe;
mod qwen3;
mod qwen3_5;
mod qwen3_5_moe;
mod qwen3_moe;
mod qwen3_next;
mod smollm3;
mod starcoder2;

use serde_json::Value;

pub use self::{
    family::Family,
    wrapper::{Wrapper, wrappers},
};
use super::{
    decoder::{self, Spec},
    error::ConfigError,
    fields::{Fields, shown},
};
use crate::config::nearest;

/// All of them, in the order in which they are listed to people.
static FAMILIES: &[&Family] = &[
    &arcee::FAMILY,
    &cohere::FAMILY,
    &cohere2::FAMILY,
    &deepseek_v3::FAMILY,
    &exaone4::FAMILY,
    &gemma2::FAMILY,
    &gemma3::FAMILY,
    &gemma4::FAMILY,
    &glm::FAMILY,
    &glm4::FAMILY,
    &glm4_moe::FAMILY,
    &gpt2::FAMILY,
    &gpt2::GPT_SW3,
    &gpt_neox::FAMILY,
    &gpt_oss::FAMILY,
    &granite::FAMILY,
    &llama::FAMILY,
    &llama::INTERNLM3,
    &llama::IQUESTCODER,
    &llama4::FAMILY,
    &ministral3::FAMILY,
    &mistral::FAMILY,
    &mixtral::FAMILY,
    &nemotron::FAMILY,
    &olmo2::FAMILY,
    &olmo3::FAMILY,
    &phi3::FAMILY,
    &qwen2::FAMILY,
    &qwen2_moe::FAMILY,
    &qwen3::FAMILY,
    &qwen3_5::FAMILY,
    &qwen3_5_moe::FAMILY,
    &qwen3_moe::FAMILY,
    &qwen3_next::FAMILY,
    &smollm3::FAMILY,
    &starcoder2::FAMILY,
];

/// Every family that [`CausalLm`](super::CausalLm) reads.
pub fn families() -> impl Iterator<Item = &'static Family> {
    FAMILIES.iter().copied()
}

/// The `model_type` of each, and of every multimodal model whose text model is read.
fn model_types() -> impl Iterator<Item = &'static str> {
    let families = families().map(|family| family.model_type);
    families.chain(wrappers().map(|wrapper| wrapper.model_type))
}

/// Reads `config.json`.
///
/// # Errors
///
/// [`ConfigError`] for another architecture, for values that cannot be, and for what is not supported.
pub(super) fn spec(json: &Value) -> Result<Spec, ConfigError> {
    let fields = Fields::root(json)?;
    purpose(fields)?;
    let found = fields.text("model_type")?;
    let text = match found {
        Some(found) => wrapper::text(found, fields)?,
        None => None,
    };
    let (name, inner) = match &text {
        None => (found, fields),
        Some(text) => (Some(text.model_type), text.fields),
    };
    let family = family(name, inner)?;
    let mut spec = (family.read)(family.model_type, inner)?;
    if let Some(text) = text {
        spec.head.tied = text.tied;
    }
    // Here and not before: a family reads its rotations against the positions of the file.
    spec.positions = common::reach(inner, &spec)?;
    // What the forward pass does not compute, and what no file could hold, is refused here, before a weight is read.
    decoder::check_sizes(&spec)?;
    Ok(spec)
}

/// Refuses a model that only has a head of another purpose than text.
fn purpose(fields: Fields<'_>) -> Result<(), ConfigError> {
    let classes = fields.texts("architectures")?.unwrap_or_default();
    let mut others = classes.iter().filter(|class| nearest::makes_no_text(class));
    match others.next() {
        Some(class) if others.count() + 1 == classes.len() => Err(ConfigError::Purpose {
            class: shown((*class).to_owned()),
        }),
        _ => Ok(()),
    }
}

/// The family that a file names: by `model_type` or, where there is none, by the class in `architectures`.
fn family(found: Option<&str>, fields: Fields<'_>) -> Result<&'static Family, ConfigError> {
    let classes = fields.texts("architectures")?.unwrap_or_default();
    let of_class = FAMILIES.iter().find(|family| {
        let mut classes = classes.iter();
        classes.any(|class| nearest::is_class_of(class, family.model_type))
    });
    let Some(found) = found else {
        return of_class
            .copied()
            .ok_or_else(|| fields.missing("model_type"));
    };
    let named = FAMILIES.iter().find(|family| family.model_type == found);
    named.copied().ok_or_else(|| {
        let found = shown(found.to_owned());
        ConfigError::Architecture {
            nearest: match of_class {
                Some(family) => Some(format!("{}, by `architectures`", family.model_type)),
                None => nearest(&found, model_types()).map(|name| format!("{name}, by its name")),
            },
            found,
            known: model_types().collect::<Vec<_>>().join(", "),
        }
    })
}
