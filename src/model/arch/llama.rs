//! Llama: biases where the file has them. InternLM 3 and IQuest Coder are Llamas with other defaults.

use super::{
    common::{self, Defaults},
    family::Family,
};
use crate::model::{decoder::Spec, error::ConfigError, fields::Fields};

pub(super) static FAMILY: Family = Family::new("llama", read).verified(&[
    "llama_bf16_untied",
    "llama_f16_tied_bias",
    "llama_f32_tied",
    "llama_rope_dynamic",
    "llama_rope_linear",
    "llama_rope_yarn",
]);

pub(super) static INTERNLM3: Family = Family::new("internlm3", read_internlm3).alias_of("llama");

pub(super) static IQUESTCODER: Family =
    Family::new("iquestcoder", read_iquestcoder).alias_of("llama");

fn read(family: &'static str, fields: Fields<'_>) -> Result<Spec, ConfigError> {
    let mut spec = common::spec(family, fields, &Defaults::LLAMA)?;
    common::attention_biases(fields, &mut spec)?;
    common::mlp_biases(fields, &mut spec)?;
    Ok(spec)
}

fn read_internlm3(family: &'static str, fields: Fields<'_>) -> Result<Spec, ConfigError> {
    const DEFAULTS: Defaults = Defaults {
        key_value_heads: Some(2),
        head_features: Some(128),
        norm_eps: 1e-5,
        ..Defaults::LLAMA
    };
    let mut spec = common::spec(family, fields, &DEFAULTS)?;
    // Its own names of the two fields, and those of Llama.
    let bias = |own, other| match fields.names(own) {
        true => common::flag(fields, own),
        false => common::flag(fields, other),
    };
    let attention = bias("qkv_bias", "attention_bias")?;
    let mlp = bias("bias", "mlp_bias")?;
    if attention != mlp {
        return Err(fields.unsupported("qkv_bias", attention, format!("{mlp}, as `bias` is")));
    }
    for (_, attention) in spec.attentions_mut() {
        attention.qkv_bias = mlp;
        attention.o_bias = mlp;
    }
    for spec in spec.mlps_mut() {
        spec.bias = mlp;
    }
    Ok(spec)
}

fn read_iquestcoder(family: &'static str, fields: Fields<'_>) -> Result<Spec, ConfigError> {
    const DEFAULTS: Defaults = Defaults {
        key_value_heads: Some(8),
        head_features: Some(128),
        norm_eps: 1e-5,
        ..Defaults::LLAMA
    };
    if let Some(clip) = fields.get("clip_qkv") {
        return Err(fields.unsupported("clip_qkv", clip, "null"));
    }
    if common::flag(fields, "use_sliding_window")? {
        return Err(fields.unsupported("use_sliding_window", true, "false"));
    }
    let mut spec = common::spec(family, fields, &DEFAULTS)?;
    common::attention_biases(fields, &mut spec)?;
    common::mlp_biases(fields, &mut spec)?;
    Ok(spec)
}
