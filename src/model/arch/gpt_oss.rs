//! gpt-oss: experts on every layer, whose gates are clamped; a score more for each head; windows on some layers.

use super::{
    common::{self, Defaults},
    experts,
    family::Family,
    rotary::{self, RotaryDefaults},
};
use crate::model::{
    decoder::{ExpertStorage, Gate, LLAMA, Names, Part, Sees, Spec},
    error::ConfigError,
    fields::Fields,
    layers::{Clamp, RopeScaling, RouterScore, RouterSpec},
};

pub(super) static FAMILY: Family = Family::new("gpt_oss", read).verified(&["gpt_oss_bf16"]);

const DEFAULTS: Defaults = Defaults {
    key_value_heads: Some(8),
    head_features: Some(64),
    norm_eps: 1e-5,
    rotary: RotaryDefaults {
        theta: 150_000.0,
        ..RotaryDefaults::LLAMA
    },
    ..Defaults::LLAMA
};

static NAMES: Names = Names {
    name: "gpt_oss",
    other: &[(Part::Router, "mlp.router")],
    switch: "experts",
    ..LLAMA
};

fn read(family: &'static str, fields: Fields<'_>) -> Result<Spec, ConfigError> {
    let mut spec = common::spec(family, fields, &DEFAULTS)?;
    let bias = fields.flag_or("attention_bias", true)?;
    let window = match fields.names("sliding_window") {
        true => fields.count("sliding_window")?,
        false => Some(128),
    };
    let window = window.map_or(Sees::All, Sees::Window);
    common::windows(fields, &mut spec, window, |layer| layer % 2 == 0)?;
    let says_rotation = rotary::place(fields)?.is_some();
    for (_, attention) in spec.attentions_mut() {
        attention.qkv_bias = bias;
        attention.o_bias = bias;
        attention.sinks = true;
        if let (false, Some(rotary)) = (says_rotation, &mut attention.rotary) {
            rotary.scaling = YARN;
        }
    }

    let router = RouterSpec {
        bias: true,
        ..RouterSpec::new(RouterScore::SoftmaxOfChosen, false)
    };
    let names = ["num_local_experts", "num_experts"];
    let counts = experts::counts(fields, &names, [128, 4])?;
    let features = common::required(fields, "intermediate_size")?;
    let mut sparse = experts::each(&spec, features, counts, router);
    sparse.stored = ExpertStorage::StackedTransposed;
    sparse.each.gate = Gate::Interleaved;
    sparse.each.bias = true;
    sparse.each.clamp = Some(Clamp {
        limit: fields.positive("swiglu_limit")?.unwrap_or(7.0),
        slope: fields.positive("swiglu_alpha")?.unwrap_or(1.702),
    });
    experts::put(&mut spec, &sparse, |_| true);
    spec.names = &NAMES;
    Ok(spec)
}

/// The rotation of a file that says nothing about it; the last number is `0.1 · ln(32) + 1`.
const YARN: RopeScaling = RopeScaling::Yarn {
    factor: 32.0,
    original_positions: 4096,
    beta_fast: 32.0,
    beta_slow: 1.0,
    truncate: false,
    attention_factor: 1.346_573_6,
};
