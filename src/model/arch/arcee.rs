//! Arcee (AFM): Llama whose MLPs have no gate and square what they let through.

use super::{
    common::{self, Defaults},
    family::Family,
};
use crate::model::{
    decoder::{MlpSpec, Spec},
    error::ConfigError,
    fields::Fields,
    layers::{Activation, NormSpec},
};

pub(super) static FAMILY: Family = Family::new("arcee", read).verified(&["arcee_bf16"]);

fn read(family: &'static str, fields: Fields<'_>) -> Result<Spec, ConfigError> {
    let activation = common::activation(fields, "hidden_act", Activation::ReluSquared)?;
    let bias = common::flag(fields, "mlp_bias")?;
    let mlp = MlpSpec::plain(
        common::required(fields, "intermediate_size")?,
        activation,
        bias,
    );
    let norm = NormSpec::rms(fields.positive("rms_norm_eps")?.unwrap_or(1e-5));
    let mut spec = common::spec_of(family, fields, &Defaults::LLAMA, mlp, norm)?;
    common::attention_biases(fields, &mut spec)?;
    Ok(spec)
}
