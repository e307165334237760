//! GLM-4-0414: GLM with a norm after each half of a layer, too.

use super::{family::Family, glm};
use crate::model::{
    decoder::{LLAMA, Names, NormPlaces, Part, Spec},
    error::ConfigError,
    fields::Fields,
};

pub(super) static FAMILY: Family = Family::new("glm4", read).verified(&["glm4_bf16"]);

static NAMES: Names = Names {
    name: "glm4",
    other: &[
        (Part::AttentionNormAfter, "post_self_attn_layernorm"),
        (Part::MlpNormAfter, "post_mlp_layernorm"),
    ],
    ..LLAMA
};

fn read(family: &'static str, fields: Fields<'_>) -> Result<Spec, ConfigError> {
    let mut spec = glm::read(family, fields)?;
    for layer in &mut spec.layers {
        layer.norms = NormPlaces::Around;
    }
    spec.names = &NAMES;
    Ok(spec)
}
