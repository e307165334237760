//! Ministral 3: Mistral stretched with YaRN, whose queries grow with their position.

use super::{
    common::{self, Defaults},
    family::Family,
    rotary,
};
use crate::model::{
    decoder::{Sees, Spec},
    error::ConfigError,
    fields::Fields,
    layers::{QueryGrowth, RopeScaling},
};

pub(super) static FAMILY: Family = Family::new("ministral3", read).verified(&["ministral3_bf16"]);

const DEFAULTS: Defaults = Defaults {
    key_value_heads: Some(8),
    head_features: Some(128),
    norm_eps: 1e-5,
    ..Defaults::LLAMA
};

fn read(family: &'static str, fields: Fields<'_>) -> Result<Spec, ConfigError> {
    let mut spec = common::spec(family, fields, &DEFAULTS)?;
    let window = fields.count("sliding_window")?;
    let rope = rotary::place(fields)?;
    for (_, attention) in spec.attentions_mut() {
        attention.sees = window.map_or(Sees::All, Sees::Window);
        let Some(rotary) = &mut attention.rotary else {
            continue;
        };
        let factor = match rope {
            Some(rope) => rope.number("llama_4_scaling_beta")?,
            None => {
                rotary.theta = 1_000_000.0;
                rotary.scaling = SCALING;
                Some(0.1)
            }
        };
        let original = rotary.scaling.original_positions();
        let growth = |factor, positions| QueryGrowth {
            factor,
            positions,
            offset: 0,
        };
        attention.query_growth = match (factor, original) {
            (Some(factor), Some(positions)) => Some(growth(factor, positions)),
            (None, _) => None,
            (Some(_), None) => {
                let rope = rope.unwrap_or(fields);
                return Err(rope.missing("original_max_position_embeddings"));
            }
        };
    }
    Ok(spec)
}

/// How frequencies are stretched in a file that says nothing about rotations.
const SCALING: RopeScaling = RopeScaling::Yarn {
    factor: 16.0,
    original_positions: 16_384,
    beta_fast: 32.0,
    beta_slow: 1.0,
    truncate: true,
    attention_factor: 1.0,
};
