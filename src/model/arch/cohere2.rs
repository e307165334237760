//! Command R7B and A: Command R with a window on three layers of four; only those turn their heads.

use super::{
    cohere,
    common::{self, Defaults},
    family::Family,
    rotary::RotaryDefaults,
};
use crate::model::{
    decoder::{Sees, Spec},
    error::ConfigError,
    fields::Fields,
    layers::Pairs,
};

pub(super) static FAMILY: Family = Family::new("cohere2", read).verified(&["cohere2_bf16"]);

const DEFAULTS: Defaults = Defaults {
    tied: true,
    rotary: RotaryDefaults {
        pairs: Pairs::Interleaved,
        ..RotaryDefaults::LLAMA
    },
    ..Defaults::LLAMA
};

fn read(family: &'static str, fields: Fields<'_>) -> Result<Spec, ConfigError> {
    let mut spec = cohere::side_by_side(family, fields, &DEFAULTS)?;
    let every = fields.count("sliding_window_pattern")?.unwrap_or(4);
    let window = match common::window(fields)? {
        Sees::All => return Err(fields.value("sliding_window", "null", "a number of tokens")),
        window => window,
    };
    common::windows(fields, &mut spec, window, |layer| (layer + 1) % every != 0)?;
    for (_, attention) in spec.attentions_mut() {
        if attention.sees == Sees::All {
            attention.rotary = None;
        }
    }
    Ok(spec)
}
