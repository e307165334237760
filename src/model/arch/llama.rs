//! Llama: biases where the file has them.

use super::{
    common::{self, Defaults},
    family::Family,
};
use crate::model::{decoder::Spec, error::ConfigError, fields::Fields};

pub(super) static FAMILY: Family = Family {
    model_type: "llama",
    read,
};

fn read(family: &'static str, fields: Fields<'_>) -> Result<Spec, ConfigError> {
    let mut spec = common::spec(family, fields, &Defaults::LLAMA)?;
    common::attention_biases(fields, &mut spec)?;
    common::mlp_biases(fields, &mut spec)?;
    Ok(spec)
}
