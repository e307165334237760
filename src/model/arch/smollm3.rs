//! SmolLM 3: Llama whose layers do not all turn.

use super::{
    common::{self, Defaults},
    family::Family,
    rotary::RotaryDefaults,
};
use crate::model::{
    decoder::{Sees, Spec},
    error::ConfigError,
    fields::Fields,
};

pub(super) static FAMILY: Family = Family::new("smollm3", read).verified(&["smollm3_bf16"]);

const DEFAULTS: Defaults = Defaults {
    key_value_heads: Some(4),
    tied: true,
    rotary: RotaryDefaults {
        theta: 2_000_000.0,
        ..RotaryDefaults::LLAMA
    },
    ..Defaults::LLAMA
};

fn read(family: &'static str, fields: Fields<'_>) -> Result<Spec, ConfigError> {
    let mut spec = common::spec(family, fields, &DEFAULTS)?;
    common::attention_biases(fields, &mut spec)?;
    common::mlp_biases(fields, &mut spec)?;
    let turns = common::turning_layers(fields, spec.layers.len())?;
    for ((_, attention), turns) in spec.attentions_mut().zip(&turns) {
        attention.rotary = attention.rotary.take().filter(|_| *turns);
    }
    let window = fields.count("sliding_window")?.map(Sees::Window);
    let asked = common::flag(fields, "use_sliding_window")? && window.is_some();
    let window = window.unwrap_or(Sees::All);
    common::windows(fields, &mut spec, window, |layer| asked && !turns[layer])?;
    Ok(spec)
}
