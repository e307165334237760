//! Gemma 3: Gemma 2 with norms of queries and keys in place of bent scores; layers with a window turn in their own way.
//!
//! Files of the multimodal model leave out every field that has its default.

use super::{
    common::{self, Defaults},
    family::Family,
    gemma2,
    rotary::RotaryDefaults,
};
use crate::model::{
    decoder::{QueryKeyNormSpec, Spec},
    error::ConfigError,
    fields::Fields,
    layers::NormOver,
};

pub(super) static FAMILY: Family =
    Family::new("gemma3_text", read).verified(&["gemma3_bf16", "gemma3_mm_bf16"]);

pub(super) const DEFAULTS: Defaults = Defaults {
    vocabulary: Some(262_208),
    positions: Some(131_072),
    heads: Some(8),
    rotary: RotaryDefaults {
        kind: Some("full_attention"),
        theta: 1_000_000.0,
        ..RotaryDefaults::LLAMA
    },
    ..gemma2::DEFAULTS
};

/// Of layers with a window.
const NEAR: RotaryDefaults = RotaryDefaults {
    kind: Some("sliding_attention"),
    scaled: false,
    theta_field: "rope_local_base_freq",
    ..RotaryDefaults::LLAMA
};

fn read(family: &'static str, fields: Fields<'_>) -> Result<Spec, ConfigError> {
    let mut spec = gemma2::gemma(family, fields, &DEFAULTS)?;
    let every = fields.count("sliding_window_pattern")?.unwrap_or(6);
    let window = common::window(fields)?;
    common::windows(fields, &mut spec, window, |layer| (layer + 1) % every != 0)?;
    common::rotary_near(fields, &mut spec, &NEAR)?;
    let norm = spec.norm;
    for (_, attention) in spec.attentions_mut() {
        attention.query_key_norm = Some(QueryKeyNormSpec::new(norm, NormOver::Head));
    }
    spec.head.soft_cap = gemma2::soft_cap(fields, "final_logit_softcapping", None)?;
    Ok(spec)
}
