//! Granite: Llama with multipliers of embeddings, scores, residuals and logits.

use super::{
    common::{self, Defaults},
    family::Family,
};
use crate::model::{decoder::Spec, error::ConfigError, fields::Fields};

pub(super) static FAMILY: Family = Family::new("granite", read).verified(&["granite_bf16"]);

fn read(family: &'static str, fields: Fields<'_>) -> Result<Spec, ConfigError> {
    let mut spec = common::spec(family, fields, &Defaults::LLAMA)?;
    // Absent is 1, as in transformers; scores too are not divided by the root of a head's features.
    let multiplier = |field| Ok::<_, ConfigError>(fields.positive(field)?.unwrap_or(1.0));
    let scale = multiplier("attention_multiplier")?;
    let residual = multiplier("residual_multiplier")?;
    spec.embedding.multiplier = Some(multiplier("embedding_multiplier")?);
    spec.head.multiplier = Some(1.0 / multiplier("logits_scaling")?);
    common::attention_biases(fields, &mut spec)?;
    common::mlp_biases(fields, &mut spec)?;
    for (_, attention) in spec.attentions_mut() {
        attention.scale = scale;
    }
    for layer in &mut spec.layers {
        layer.residual_multiplier = Some(residual);
    }
    Ok(spec)
}
