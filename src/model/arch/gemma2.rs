//! Gemma 2: norms around each half, which store their scale minus one; every second layer has a window; scores and logits
//! are bent.

use super::{
    common::{self, Defaults},
    family::Family,
};
use crate::model::{
    decoder::{LLAMA, Names, NormPlaces, Part, Spec},
    error::ConfigError,
    fields::Fields,
    layers::{Activation, NormSpec},
};

pub(super) static FAMILY: Family = Family::new("gemma2", read).verified(&["gemma2_bf16"]);

pub(super) const DEFAULTS: Defaults = Defaults {
    key_value_heads: Some(4),
    head_features: Some(256),
    tied: true,
    activation: ("hidden_activation", Activation::GeluTanh),
    ..Defaults::LLAMA
};

static NAMES: Names = Names {
    name: "gemma2",
    other: &[(Part::MlpNorm, "pre_feedforward_layernorm")],
    ..LLAMA
};

fn read(family: &'static str, fields: Fields<'_>) -> Result<Spec, ConfigError> {
    let mut spec = gemma(family, fields, &DEFAULTS)?;
    let window = common::window(fields)?;
    common::windows(fields, &mut spec, window, |layer| layer % 2 == 0)?;
    let soft_cap = soft_cap(fields, "attn_logit_softcapping", Some(50.0))?;
    for (_, attention) in spec.attentions_mut() {
        attention.soft_cap = soft_cap;
    }
    spec.head.soft_cap = self::soft_cap(fields, "final_logit_softcapping", Some(30.0))?;
    Ok(spec)
}

/// Gemma 2 and later: norms around each half, embeddings that are multiplied, a scale of scores of its own.
pub(super) fn gemma(
    family: &'static str,
    fields: Fields<'_>,
    defaults: &Defaults,
) -> Result<Spec, ConfigError> {
    if common::flag(fields, "use_bidirectional_attention")? {
        let supported = "false: a text is read forwards";
        return Err(fields.unsupported("use_bidirectional_attention", true, supported));
    }
    let mut spec = common::spec(family, fields, defaults)?;
    let norm = NormSpec {
        plus_one: true,
        rounds_first: false,
        ..spec.norm
    };
    spec.names = &NAMES;
    spec.norm = norm;
    spec.embedding.multiplier = Some((spec.features as f64).sqrt());
    for layer in &mut spec.layers {
        layer.norm = norm;
        layer.norms = NormPlaces::Around;
    }
    common::attention_biases(fields, &mut spec)?;
    let scale = fields.positive("query_pre_attn_scalar")?.unwrap_or(256.0);
    for (_, attention) in spec.attentions_mut() {
        attention.scale = scale.sqrt().recip();
    }
    Ok(spec)
}

/// What scores or logits are bent by: absent is the default of the family, `null` is nothing.
pub(super) fn soft_cap(
    fields: Fields<'_>,
    field: &str,
    absent: Option<f64>,
) -> Result<Option<f64>, ConfigError> {
    match fields.names(field) {
        true => fields.positive(field),
        false => Ok(absent),
    }
}
