//! Llama: biases where the file has them.

use super::{
    common::{self, Defaults, flag},
    family::Family,
};
use crate::model::{decoder::Spec, error::ConfigError, fields::Fields};

pub(super) static FAMILY: Family = Family {
    model_type: "llama",
    read,
};

const DEFAULTS: Defaults = Defaults {
    key_value_heads: None,
    head_features: None,
};

fn read(family: &'static str, fields: Fields<'_>) -> Result<Spec, ConfigError> {
    let mut spec = common::spec(family, fields, &DEFAULTS)?;
    let (attention_bias, mlp_bias) = (flag(fields, "attention_bias")?, flag(fields, "mlp_bias")?);
    for (_, attention) in spec.attentions_mut() {
        attention.qkv_bias = attention_bias;
        attention.o_bias = attention_bias;
    }
    for mlp in spec.mlps_mut() {
        mlp.bias = mlp_bias;
    }
    Ok(spec)
}
