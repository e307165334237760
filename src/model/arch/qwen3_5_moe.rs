//! Qwen 3.5 MoE: Qwen 3.5 with experts in every layer, beside an MLP behind a gate.

use super::{
    common::{self, Defaults},
    experts,
    family::Family,
    qwen3_5,
};
use crate::model::{
    decoder::{ExpertStorage, Gate, MlpSpec, SharedExpertSpec, Spec},
    error::ConfigError,
    fields::Fields,
    layers::{Activation, NormSpec},
};

pub(super) static FAMILY: Family =
    Family::new("qwen3_5_moe_text", read).verified(&["qwen3_5_moe_bf16"]);

const DEFAULTS: Defaults = Defaults {
    key_value_heads: Some(2),
    ..qwen3_5::DEFAULTS
};

fn read(family: &'static str, fields: Fields<'_>) -> Result<Spec, ConfigError> {
    let count = |field, default| Ok::<_, ConfigError>(fields.count(field)?.unwrap_or(default));
    let activation = common::activation(fields, "hidden_act", Activation::Silu)?;
    let mlp = MlpSpec::gated(count("shared_expert_intermediate_size", 512)?, activation);
    let norm = NormSpec::rms(
        fields
            .positive("rms_norm_eps")?
            .unwrap_or(DEFAULTS.norm_eps),
    );
    let mut spec = common::spec_of(family, fields, &DEFAULTS, mlp.clone(), norm)?;
    qwen3_5::mixers(fields, &mut spec, false)?;

    let mut sparse = experts::qwen(fields, &spec, &["num_experts"], [256, 8], 512)?;
    // The file has no field for it.
    sparse.router.normalised = true;
    sparse.stored = ExpertStorage::Stacked;
    sparse.each.gate = Gate::Fused;
    sparse.shared = Some(SharedExpertSpec { mlp, gated: true });
    experts::put(&mut spec, &sparse, |_| true);
    Ok(spec)
}
