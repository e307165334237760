//! OLMo 2: norms after each half, and over all queries and all keys of a token.

use super::{
    common::{self, Defaults},
    family::Family,
};
use crate::model::{
    decoder::{NormPlaces, QueryKeyNormSpec, Spec},
    error::ConfigError,
    fields::Fields,
    layers::{NormOver, NormSpec},
};

pub(super) static FAMILY: Family = Family::new("olmo2", read).verified(&["olmo2_bf16"]);

const DEFAULTS: Defaults = Defaults {
    norm_eps: 1e-5,
    ..Defaults::LLAMA
};

fn read(family: &'static str, fields: Fields<'_>) -> Result<Spec, ConfigError> {
    olmo(family, fields, &DEFAULTS)
}

/// OLMo 2 and later.
pub(super) fn olmo(
    family: &'static str,
    fields: Fields<'_>,
    defaults: &Defaults,
) -> Result<Spec, ConfigError> {
    let mut spec = common::spec(family, fields, defaults)?;
    let norm = NormSpec {
        rounds_first: false,
        ..spec.norm
    };
    spec.norm = norm;
    for layer in &mut spec.layers {
        layer.norm = norm;
        layer.norms = NormPlaces::After;
    }
    common::attention_biases(fields, &mut spec)?;
    for (_, attention) in spec.attentions_mut() {
        attention.query_key_norm = Some(QueryKeyNormSpec::new(norm, NormOver::All));
    }
    Ok(spec)
}
