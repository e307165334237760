//! GLM-4 in the layout of transformers: biases on queries, keys and values, gate and up in one matrix, and heads of which
//! half turns, neighbouring features together.

use super::{
    common::{self, Defaults},
    family::Family,
    rotary::RotaryDefaults,
};
use crate::model::{
    decoder::{Gate, Spec},
    error::ConfigError,
    fields::Fields,
    layers::Pairs,
};

pub(super) static FAMILY: Family = Family::new("glm", read).verified(&["glm_bf16"]);

const DEFAULTS: Defaults = Defaults {
    key_value_heads: Some(2),
    head_features: Some(128),
    norm_eps: 1.5625e-7,
    rotary: RotaryDefaults {
        part: Some(0.5),
        pairs: Pairs::Interleaved,
        ..RotaryDefaults::LLAMA
    },
    ..Defaults::LLAMA
};

pub(super) fn read(family: &'static str, fields: Fields<'_>) -> Result<Spec, ConfigError> {
    let mut spec = common::spec(family, fields, &DEFAULTS)?;
    let bias = fields.flag_or("attention_bias", true)?;
    for (_, attention) in spec.attentions_mut() {
        attention.qkv_bias = bias;
    }
    for mlp in spec.mlps_mut() {
        mlp.gate = Gate::Fused;
    }
    Ok(spec)
}
