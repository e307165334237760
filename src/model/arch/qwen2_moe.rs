//! Qwen 2 MoE: Qwen 2 with experts on some layers, and beside them an MLP for every token behind a gate.

use super::{
    common::{self, Defaults},
    experts,
    family::Family,
};
use crate::model::{
    decoder::{MlpSpec, Sees, SharedExpertSpec, Spec},
    error::ConfigError,
    fields::Fields,
};

pub(super) static FAMILY: Family = Family::new("qwen2_moe", read).verified(&["qwen2_moe_bf16"]);

const DEFAULTS: Defaults = Defaults {
    key_value_heads: Some(16),
    ..Defaults::LLAMA
};

fn read(family: &'static str, fields: Fields<'_>) -> Result<Spec, ConfigError> {
    let mut spec = common::spec(family, fields, &DEFAULTS)?;
    let bias = fields.flag_or("qkv_bias", true)?;
    for (_, attention) in spec.attentions_mut() {
        attention.qkv_bias = bias;
    }
    windows(fields, &mut spec)?;

    let mut sparse = experts::qwen(fields, &spec, &["num_experts"], [60, 4], 1408)?;
    let shared = fields.count("shared_expert_intermediate_size")?;
    sparse.shared = Some(SharedExpertSpec {
        mlp: MlpSpec {
            features: shared.unwrap_or(5632),
            ..sparse.each.clone()
        },
        gated: true,
    });
    experts::on_sparse_layers(fields, &mut spec, &sparse)?;
    Ok(spec)
}

/// A window on the layers that `layer_types` lists or, without that list, on every second one before
/// `max_window_layers`.
fn windows(fields: Fields<'_>, spec: &mut Spec) -> Result<(), ConfigError> {
    if fields.get("layer_types").is_some() || !common::flag(fields, "use_sliding_window")? {
        return common::windows_of_layers(fields, spec);
    }
    let window = common::window(fields)?;
    let before = fields.index("max_window_layers")?.unwrap_or(28);
    for (layer, attention) in spec.attentions_mut() {
        let windowed = layer % 2 == 0 && layer < before;
        attention.sees = if windowed { window } else { Sees::All };
    }
    Ok(())
}
