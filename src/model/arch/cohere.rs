//! Command R: one norm, with a mean, for both halves of a layer, which run side by side; neighbouring features turn
//! together, and logits are scaled.

use super::{
    common::{self, Defaults},
    family::Family,
    rotary::RotaryDefaults,
};
use crate::model::{
    decoder::{MlpSpec, NormPlaces, QueryKeyNormSpec, Spec},
    error::ConfigError,
    fields::Fields,
    layers::{Activation, NormOver, NormSpec, Pairs},
};

pub(super) static FAMILY: Family = Family::new("cohere", read).verified(&["cohere_bf16"]);

const DEFAULTS: Defaults = Defaults {
    tied: true,
    rotary: RotaryDefaults {
        theta: 500_000.0,
        pairs: Pairs::Interleaved,
        ..RotaryDefaults::LLAMA
    },
    ..Defaults::LLAMA
};

fn read(family: &'static str, fields: Fields<'_>) -> Result<Spec, ConfigError> {
    let mut spec = side_by_side(family, fields, &DEFAULTS)?;
    if common::flag(fields, "use_qk_norm")? {
        let norm = QueryKeyNormSpec::new(spec.norm, NormOver::OwnHead);
        for (_, attention) in spec.attentions_mut() {
            attention.query_key_norm = Some(norm);
        }
    }
    Ok(spec)
}

/// The parts that all models of Cohere have.
pub(super) fn side_by_side(
    family: &'static str,
    fields: Fields<'_>,
    defaults: &Defaults,
) -> Result<Spec, ConfigError> {
    let activation = common::activation(fields, "hidden_act", Activation::Silu)?;
    let mlp = MlpSpec::gated(common::required(fields, "intermediate_size")?, activation);
    let norm = NormSpec::layer(fields.positive("layer_norm_eps")?.unwrap_or(1e-5), false);
    let mut spec = common::spec_of(family, fields, defaults, mlp, norm)?;
    common::attention_biases(fields, &mut spec)?;
    for layer in &mut spec.layers {
        layer.norms = NormPlaces::Parallel;
    }
    spec.head.multiplier = Some(logit_scale(fields)?);
    Ok(spec)
}

/// What logits are multiplied by. A file that names the field and gives no number is refused: transformers has no answer to it.
fn logit_scale(fields: Fields<'_>) -> Result<f64, ConfigError> {
    const FIELD: &str = "logit_scale";
    match (fields.positive(FIELD)?, fields.names(FIELD)) {
        (Some(scale), _) => Ok(scale),
        (None, false) => Ok(0.0625),
        (None, true) => Err(fields.value(FIELD, "null", "a number above 0")),
    }
}
