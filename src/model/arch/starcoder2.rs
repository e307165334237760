//! StarCoder 2: norms with means and biases, MLPs without a gate, biases everywhere; a window on every layer, if there is
//! one.

use super::{
    common::{self, Defaults},
    family::Family,
};
use crate::model::{
    decoder::{LLAMA, MlpSpec, Names, Part, Sees, Spec},
    error::ConfigError,
    fields::Fields,
    layers::{Activation, NormSpec},
};

pub(super) static FAMILY: Family = Family::new("starcoder2", read).verified(&["starcoder2_bf16"]);

const DEFAULTS: Defaults = Defaults {
    key_value_heads: Some(2),
    ..Defaults::LLAMA
};

static NAMES: Names = Names {
    name: "starcoder2",
    other: &[(Part::Up, "mlp.c_fc"), (Part::Down, "mlp.c_proj")],
    ..LLAMA
};

fn read(family: &'static str, fields: Fields<'_>) -> Result<Spec, ConfigError> {
    let bias = fields.flag_or("use_bias", true)?;
    let activation = common::activation(fields, "hidden_act", Activation::GeluTanh)?;
    let inner = common::required(fields, "intermediate_size")?;
    let norm = NormSpec::layer(fields.positive("norm_epsilon")?.unwrap_or(1e-5), true);
    let mlp = MlpSpec::plain(inner, activation, bias);
    let mut spec = common::spec_of(family, fields, &DEFAULTS, mlp, norm)?;
    let window = fields.count("sliding_window")?;
    for (_, attention) in spec.attentions_mut() {
        attention.qkv_bias = bias;
        attention.o_bias = bias;
        attention.sees = window.map_or(Sees::All, Sees::Window);
    }
    spec.head.tied = common::tied(fields, true)?;
    spec.names = &NAMES;
    Ok(spec)
}
