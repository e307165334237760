//! Phi-3 and Phi-4: queries, keys and values in one matrix, gate and up in another; a window on every layer, if there is
//! one.

use super::{
    common::{self, Defaults},
    family::Family,
    rotary::{self, RotaryDefaults},
};
use crate::model::{
    decoder::{Gate, Projections, Sees, Spec},
    error::ConfigError,
    fields::Fields,
    layers::RopeScaling,
};

pub(super) static FAMILY: Family = Family::new("phi3", read).verified(&["phi3_longrope"]);

const ROTARY: RotaryDefaults = RotaryDefaults {
    part: Some(1.0),
    original_positions: Some(4096),
    ..RotaryDefaults::LLAMA
};

const DEFAULTS: Defaults = Defaults {
    norm_eps: 1e-5,
    rotary: ROTARY,
    ..Defaults::LLAMA
};

fn read(family: &'static str, fields: Fields<'_>) -> Result<Spec, ConfigError> {
    let mut spec = common::spec(family, fields, &DEFAULTS)?;
    let window = fields.count("sliding_window")?;
    for (_, attention) in spec.attentions_mut() {
        attention.projections = Projections::Blocks;
        attention.sees = window.map_or(Sees::All, Sees::Window);
        // Files of the first days say `yarn` for what became LongRoPE; there are no others.
        let scaling = attention.rotary.as_ref().map(|rotary| &rotary.scaling);
        if let Some(scaling) = scaling
            && !matches!(scaling, RopeScaling::None | RopeScaling::LongRope { .. })
            && let Some(rope) = rotary::place(fields)?
        {
            return Err(rope.unsupported("rope_type", scaling.name(), "default, longrope"));
        }
    }
    for mlp in spec.mlps_mut() {
        mlp.gate = Gate::Fused;
    }
    Ok(spec)
}
