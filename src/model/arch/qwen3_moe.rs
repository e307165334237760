//! Qwen 3 MoE: Qwen 3 with experts on some layers, and a window on all layers, if there is one.

use super::{
    common::{self, Defaults},
    experts,
    family::Family,
};
use crate::model::{
    decoder::{QueryKeyNormSpec, Spec},
    error::ConfigError,
    fields::Fields,
    layers::NormOver,
};

pub(super) static FAMILY: Family = Family::new("qwen3_moe", read).verified(&["qwen3_moe_bf16"]);

const DEFAULTS: Defaults = Defaults {
    key_value_heads: Some(4),
    ..Defaults::LLAMA
};

fn read(family: &'static str, fields: Fields<'_>) -> Result<Spec, ConfigError> {
    let mut spec = common::spec(family, fields, &DEFAULTS)?;
    common::attention_biases(fields, &mut spec)?;
    let norm = QueryKeyNormSpec::new(spec.norm, NormOver::Head);
    let window = match common::flag(fields, "use_sliding_window")? {
        true => Some(common::window(fields)?),
        false => None,
    };
    for (_, attention) in spec.attentions_mut() {
        attention.query_key_norm = Some(norm);
        attention.sees = window.unwrap_or(attention.sees);
    }
    let names = ["num_local_experts", "num_experts"];
    let sparse = experts::qwen(fields, &spec, &names, [128, 8], 768)?;
    experts::on_sparse_layers(fields, &mut spec, &sparse)?;
    Ok(spec)
}
