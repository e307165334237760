//! Qwen 2: biases on queries, keys and values; a window on some layers, if there is one.

use super::{
    common::{self, Defaults},
    family::Family,
};
use crate::model::{decoder::Spec, error::ConfigError, fields::Fields};

pub(super) static FAMILY: Family = Family::new("qwen2", read).verified(&["qwen2_bf16_tied"]);

const DEFAULTS: Defaults = Defaults {
    key_value_heads: Some(32),
    ..Defaults::LLAMA
};

fn read(family: &'static str, fields: Fields<'_>) -> Result<Spec, ConfigError> {
    let mut spec = common::spec(family, fields, &DEFAULTS)?;
    for (_, attention) in spec.attentions_mut() {
        attention.qkv_bias = true;
    }
    common::windows_of_layers(fields, &mut spec)?;
    Ok(spec)
}
