//! GPT-NeoX: both halves of a layer side by side, queries, keys and values of each head together in one matrix, heads of
//! which a quarter turns; norms with means and biases, MLPs without a gate.

use super::{
    common::{self, Defaults},
    family::Family,
    rotary::RotaryDefaults,
};
use crate::model::{
    decoder::{LLAMA, MlpSpec, Names, NormPlaces, Part, Projections, Spec},
    error::ConfigError,
    fields::Fields,
    layers::{Activation, NormSpec},
};

pub(super) static FAMILY: Family = Family::new("gpt_neox", read).verified(&["gpt_neox_f16"]);

const DEFAULTS: Defaults = Defaults {
    rotary: RotaryDefaults {
        part: Some(0.25),
        theta_field: "rotary_emb_base",
        part_field: "rotary_pct",
        ..RotaryDefaults::LLAMA
    },
    ..Defaults::LLAMA
};

static NAMES: Names = Names {
    name: "gpt_neox",
    body: "gpt_neox.",
    other: &[
        (Part::Embedding, "embed_in"),
        (Part::Qkv, "attention.query_key_value"),
        (Part::O, "attention.dense"),
        (Part::Up, "mlp.dense_h_to_4h"),
        (Part::Down, "mlp.dense_4h_to_h"),
        (Part::Norm, "final_layer_norm"),
        (Part::Head, "embed_out"),
    ],
    // Masks, and the table of the rotation.
    leftovers: &[
        ".attention.bias",
        ".attention.masked_bias",
        ".rotary_emb.inv_freq",
    ],
    ..LLAMA
};

fn read(family: &'static str, fields: Fields<'_>) -> Result<Spec, ConfigError> {
    let activation = common::activation(fields, "hidden_act", Activation::Gelu)?;
    let inner = common::required(fields, "intermediate_size")?;
    let mlp = MlpSpec::plain(inner, activation, true);
    let norm = NormSpec::layer(fields.positive("layer_norm_eps")?.unwrap_or(1e-5), true);
    let mut spec = common::spec_of(family, fields, &DEFAULTS, mlp, norm)?;
    let bias = fields.flag_or("attention_bias", true)?;
    for (_, attention) in spec.attentions_mut() {
        attention.projections = Projections::ByHead;
        attention.qkv_bias = bias;
        attention.o_bias = bias;
    }
    if fields.flag_or("use_parallel_residual", true)? {
        for layer in &mut spec.layers {
            layer.norms = NormPlaces::ParallelApart;
        }
    }
    spec.names = &NAMES;
    spec.prefixes = NAMES.prefixes();
    Ok(spec)
}
