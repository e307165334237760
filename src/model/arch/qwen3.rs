//! Qwen 3: queries and keys are normalised head by head; a window on some layers, if there is one.

use super::{
    common::{self, Defaults},
    family::Family,
};
use crate::model::{
    decoder::{QueryKeyNormSpec, Spec},
    error::ConfigError,
    fields::Fields,
    layers::NormOver,
};

pub(super) static FAMILY: Family = Family::new("qwen3", read).verified(&["qwen3_bf16"]);

const DEFAULTS: Defaults = Defaults {
    key_value_heads: Some(32),
    head_features: Some(128),
    ..Defaults::LLAMA
};

fn read(family: &'static str, fields: Fields<'_>) -> Result<Spec, ConfigError> {
    let mut spec = common::spec(family, fields, &DEFAULTS)?;
    common::attention_biases(fields, &mut spec)?;
    let norm = spec.norm;
    for (_, attention) in spec.attentions_mut() {
        attention.query_key_norm = Some(QueryKeyNormSpec::new(norm, NormOver::Head));
    }
    common::windows_of_layers(fields, &mut spec)?;
    Ok(spec)
}
