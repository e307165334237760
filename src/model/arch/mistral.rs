//! Mistral: a window on every layer, if there is one.

use super::{
    common::{self, Defaults},
    family::Family,
};
use crate::model::{decoder::Spec, error::ConfigError, fields::Fields};

pub(super) static FAMILY: Family = Family::new("mistral", read).verified(&["mistral_bf16"]);

const DEFAULTS: Defaults = Defaults {
    key_value_heads: Some(8),
    ..Defaults::LLAMA
};

fn read(family: &'static str, fields: Fields<'_>) -> Result<Spec, ConfigError> {
    let mut spec = common::spec(family, fields, &DEFAULTS)?;
    let window = common::window(fields)?;
    for (_, attention) in spec.attentions_mut() {
        attention.sees = window;
    }
    Ok(spec)
}
