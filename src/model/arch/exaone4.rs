//! EXAONE 4: norms after each half and of queries and keys head by head; where some layers have a window, only those turn.

use super::{
    common::{self, Defaults},
    family::Family,
};
use crate::model::{
    decoder::{NormPlaces, QueryKeyNormSpec, Sees, Spec},
    error::ConfigError,
    fields::Fields,
    layers::NormOver,
};

pub(super) static FAMILY: Family = Family::new("exaone4", read).verified(&["exaone4_bf16"]);

const DEFAULTS: Defaults = Defaults {
    key_value_heads: Some(32),
    norm_eps: 1e-5,
    ..Defaults::LLAMA
};

fn read(family: &'static str, fields: Fields<'_>) -> Result<Spec, ConfigError> {
    let mut spec = common::spec(family, fields, &DEFAULTS)?;
    let norm = spec.norm;
    for layer in &mut spec.layers {
        layer.norms = NormPlaces::After;
    }
    let window = common::window(fields)?;
    // Read only where it decides: files also have a text here.
    let every = match fields.get("layer_types") {
        None => fields.count("sliding_window_pattern")?.unwrap_or(4),
        Some(_) => 4,
    };
    let some = window != Sees::All;
    common::windows(fields, &mut spec, window, |layer| {
        some && (layer + 1) % every != 0
    })?;
    for (_, attention) in spec.attentions_mut() {
        attention.query_key_norm = Some(QueryKeyNormSpec::new(norm, NormOver::Head));
        let turns = !some || attention.sees != Sees::All;
        attention.rotary = attention.rotary.take().filter(|_| turns);
    }
    Ok(spec)
}
