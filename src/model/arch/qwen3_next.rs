//! Qwen 3 Next: Qwen 3.5 with fused projections of the delta rule, and experts.

use super::{
    common::{self, Defaults},
    experts,
    family::Family,
    qwen3_5,
};
use crate::model::{
    decoder::{MlpSpec, SharedExpertSpec, Spec},
    error::ConfigError,
    fields::Fields,
};

pub(super) static FAMILY: Family = Family::new("qwen3_next", read).verified(&["qwen3_next_bf16"]);

const DEFAULTS: Defaults = Defaults {
    key_value_heads: Some(2),
    ..qwen3_5::DEFAULTS
};

fn read(family: &'static str, fields: Fields<'_>) -> Result<Spec, ConfigError> {
    let mut spec = common::spec(family, fields, &DEFAULTS)?;
    qwen3_5::mixers(fields, &mut spec, true)?;

    let mut sparse = experts::qwen(fields, &spec, &["num_experts"], [512, 10], 512)?;
    // Absent is the default of the family, which is not that of the other families of Qwen.
    sparse.router.normalised = fields.flag("norm_topk_prob")?.unwrap_or(true);
    let shared = fields.count("shared_expert_intermediate_size")?;
    sparse.shared = Some(SharedExpertSpec {
        mlp: MlpSpec {
            features: shared.unwrap_or(512),
            ..sparse.each.clone()
        },
        gated: true,
    });
    experts::on_sparse_layers(fields, &mut spec, &sparse)?;
    Ok(spec)
}
