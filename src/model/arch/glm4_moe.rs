//! GLM-4.5: the first layers have MLPs, all others experts; half of each head turns. Layers after the last, which predict
//! further tokens, are left out.

use super::{
    common::{self, Defaults},
    experts::{self, DeepSeekDefaults, SHARED_EXPERTS},
    family::Family,
    rotary::RotaryDefaults,
};
use crate::model::{
    decoder::{LLAMA, Names, QueryKeyNormSpec, Spec},
    error::ConfigError,
    fields::Fields,
    layers::NormOver,
};

pub(super) static FAMILY: Family = Family::new("glm4_moe", read).verified(&["glm4_moe_bf16"]);

const DEFAULTS: Defaults = Defaults {
    key_value_heads: Some(8),
    norm_eps: 1e-5,
    rotary: RotaryDefaults {
        part: Some(0.5),
        ..RotaryDefaults::LLAMA
    },
    ..Defaults::LLAMA
};

const EXPERTS: DeepSeekDefaults = DeepSeekDefaults {
    counts: [128, 8],
    features: 1408,
    groups: [1, 1],
    scaling: 1.0,
    first: 1,
};

static NAMES: Names = Names {
    name: "glm4_moe",
    other: SHARED_EXPERTS,
    ..LLAMA
};

fn read(family: &'static str, fields: Fields<'_>) -> Result<Spec, ConfigError> {
    let mut spec = common::spec(family, fields, &DEFAULTS)?;
    let bias = common::flag(fields, "attention_bias")?;
    let norm = QueryKeyNormSpec::new(spec.norm, NormOver::Head);
    let norm = common::flag(fields, "use_qk_norm")?.then_some(norm);
    for (_, attention) in spec.attentions_mut() {
        attention.qkv_bias = bias;
        attention.query_key_norm = norm;
    }
    experts::deepseek(fields, &mut spec, &EXPERTS)?;
    spec.predicts_further = true;
    spec.names = &NAMES;
    Ok(spec)
}
