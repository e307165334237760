//! Nemotron: norms with means and biases that store their scales minus one, MLPs without a gate whose values are squared,
//! and heads of which half turns.

use super::{
    common::{self, Defaults},
    family::Family,
    rotary::RotaryDefaults,
};
use crate::model::{
    decoder::{MlpSpec, Spec},
    error::ConfigError,
    fields::Fields,
    layers::{Activation, NormSpec},
};

pub(super) static FAMILY: Family = Family::new("nemotron", read).verified(&["nemotron_bf16"]);

const DEFAULTS: Defaults = Defaults {
    rotary: RotaryDefaults {
        part: Some(0.5),
        ..RotaryDefaults::LLAMA
    },
    ..Defaults::LLAMA
};

fn read(family: &'static str, fields: Fields<'_>) -> Result<Spec, ConfigError> {
    let activation = common::activation(fields, "hidden_act", Activation::ReluSquared)?;
    let inner = common::required(fields, "intermediate_size")?;
    let mlp = MlpSpec::plain(inner, activation, false);
    let norm = NormSpec {
        plus_one: true,
        ..NormSpec::layer(fields.positive("norm_eps")?.unwrap_or(1e-5), true)
    };
    let mut spec = common::spec_of(family, fields, &DEFAULTS, mlp, norm)?;
    common::attention_biases(fields, &mut spec)?;
    common::mlp_biases(fields, &mut spec)?;
    Ok(spec)
}
