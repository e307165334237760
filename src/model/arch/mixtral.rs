//! Mixtral: Mistral with experts on every layer.

use super::{
    common::{self, Defaults},
    experts,
    family::Family,
    rotary::RotaryDefaults,
};
use crate::model::{
    decoder::{LLAMA, Names, Part, Sees, Spec},
    error::ConfigError,
    fields::Fields,
    layers::{RouterScore, RouterSpec},
};

pub(super) static FAMILY: Family = Family::new("mixtral", read).verified(&["mixtral_bf16"]);

const DEFAULTS: Defaults = Defaults {
    key_value_heads: Some(8),
    norm_eps: 1e-5,
    rotary: RotaryDefaults {
        theta: 1e6,
        ..RotaryDefaults::LLAMA
    },
    ..Defaults::LLAMA
};

static NAMES: Names = Names {
    name: "mixtral",
    other: &[
        (Part::Router, "block_sparse_moe.gate"),
        (Part::ExpertGate, "block_sparse_moe.experts.{}.w1"),
        (Part::ExpertUp, "block_sparse_moe.experts.{}.w3"),
        (Part::ExpertDown, "block_sparse_moe.experts.{}.w2"),
    ],
    ..LLAMA
};

fn read(family: &'static str, fields: Fields<'_>) -> Result<Spec, ConfigError> {
    let mut spec = common::spec(family, fields, &DEFAULTS)?;
    let window = fields.count("sliding_window")?;
    for (_, attention) in spec.attentions_mut() {
        attention.sees = window.map_or(Sees::All, Sees::Window);
    }
    let router = RouterSpec::new(RouterScore::Softmax, true);
    let names = ["num_local_experts", "num_experts"];
    let counts = experts::counts(fields, &names, [8, 2])?;
    let features = common::required(fields, "intermediate_size")?;
    let sparse = experts::each(&spec, features, counts, router);
    experts::put(&mut spec, &sparse, |_| true);
    spec.names = &NAMES;
    Ok(spec)
}
