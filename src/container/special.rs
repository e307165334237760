//! What single architectures have beside the others: keys, and the fields that they are.

use serde_json::Value;

use super::{ContainerError, family::GgufFamily, keys::Keys};

/// `enum llama_expert_gating_func_type`: a sigmoid of each score.
pub(super) const SIGMOID: usize = 2;

/// Factors of DeepSeek are written as a tenth.
pub(super) const TENTH: f64 = 0.1;

/// Fields of one architecture; `[features, head]` are the features of the model for each head, and those of a head.
pub(super) fn special(
    keys: &Keys<'_>,
    family: &GgufFamily,
    features: [usize; 2],
    config: &mut Value,
) -> Result<(), ContainerError> {
    match family.name {
        "gemma2" | "gemma3" => gemma(keys, config, features),
        // llama.cpp divides the scores of the chosen experts of this one by their sum.
        "qwen3moe" => {
            config["norm_topk_prob"] = true.into();
            Ok(())
        }
        "command-r" => {
            // As llama.cpp has it: the largest of them has these norms.
            const LARGEST: usize = 64;
            config["use_qk_norm"] = (keys.need("block_count")? >= LARGEST).into();
            Ok(())
        }
        "gptneox" => {
            let parallel = keys.own_flag("use_parallel_residual")?;
            config["use_parallel_residual"] = parallel.unwrap_or(true).into();
            Ok(())
        }
        "gpt2" => {
            config["n_inner"] = config["intermediate_size"].clone();
            Ok(())
        }
        "llama4" => llama4(keys, config),
        "mistral3" => mistral(keys, config),
        "glm4moe" => deep_experts(keys, config),
        "deepseek2" => {
            latent(keys, config)?;
            deep_experts(keys, config)
        }
        _ => Ok(()),
    }
}

/// Files lack the scale of scores: the largest model of each generation has that of its features, the others that of a head, by
/// which llama.cpp goes as well.
fn gemma(
    keys: &Keys<'_>,
    config: &mut Value,
    [of_features, head]: [usize; 2],
) -> Result<(), ContainerError> {
    const LARGEST: [(&str, usize); 2] = [("gemma2", 46), ("gemma3_text", 62)];
    let layers = keys.need("block_count")?;
    let is_largest =
        (LARGEST.iter()).any(|(kind, count)| config["model_type"] == *kind && *count == layers);
    let scalar = if is_largest { of_features } else { head };
    config["query_pre_attn_scalar"] = scalar.into();
    for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
        if let Some(value) = keys.float(key)? {
            config[key] = value.into();
        }
    }
    Ok(())
}

/// Chunks and queries that grow, whose numbers llama.cpp has in its code; `intermediate_size` is that of experts then.
fn llama4(keys: &Keys<'_>, config: &mut Value) -> Result<(), ContainerError> {
    const POSITIONS: usize = 8192;
    /// A Llama 4 with this number of experts does not normalise queries and keys.
    const LARGEST: usize = 128;
    const WINDOW: &str = "attention.sliding_window";
    if let Some(found) = keys.number(WINDOW)?.filter(|window| *window != POSITIONS) {
        return Err(keys.refused(WINDOW, found, format!("{POSITIONS}, or absent")));
    }
    config["intermediate_size_mlp"] = keys.need("feed_forward_length")?.into();
    config["interleave_moe_layer_step"] = keys.need("interleave_moe_layer_step")?.into();
    config["use_qk_norm"] = (keys.need("expert_count")? != LARGEST).into();
    config["attention_chunk_size"] = POSITIONS.into();
    config["floor_scale"] = POSITIONS.into();
    config["attn_scale"] = 0.1.into();
    Ok(())
}

/// Queries that grow with their position, where frequencies are stretched; else it is a Mistral.
fn mistral(keys: &Keys<'_>, config: &mut Value) -> Result<(), ContainerError> {
    let growth = keys.float("attention.temperature_scale")?;
    let all = keys.float("rope.scaling.yarn_log_multiplier")?;
    match &mut config["rope_scaling"] {
        Value::Object(scaling) => {
            if let Some(growth) = growth {
                scaling.insert("llama_4_scaling_beta".to_owned(), growth.into());
            }
            if let Some(all) = all.filter(|all| *all != 0.0) {
                scaling.insert("mscale".to_owned(), 1.0.into());
                scaling.insert("mscale_all_dim".to_owned(), all.into());
            }
        }
        _ => {
            config["model_type"] = "mistral".into();
            config["sliding_window"] = Value::Null;
        }
    }
    Ok(())
}

/// Experts of DeepSeek V3 and GLM-4.5: all layers but the first ones have them, and a sigmoid and a correction choose them.
fn deep_experts(keys: &Keys<'_>, config: &mut Value) -> Result<(), ContainerError> {
    const GATING: &str = "expert_gating_func";
    match keys.number(GATING)? {
        None if config["model_type"] == "glm4_moe" => {}
        Some(SIGMOID) => {}
        found => {
            let found = found.map_or("absent".to_owned(), |found| found.to_string());
            return Err(keys.refused(GATING, found, format!("{SIGMOID}, a sigmoid")));
        }
    }
    let further = keys.number("nextn_predict_layers")?.unwrap_or(0);
    let layers = keys.need("block_count")?;
    config["num_hidden_layers"] = layers.saturating_sub(further).into();
    config["n_shared_experts"] = keys.number("expert_shared_count")?.unwrap_or(0).into();
    let first = keys.number("leading_dense_block_count")?;
    config["first_k_dense_replace"] = first.unwrap_or(0).into();
    let scaling = keys.float("expert_weights_scale")?;
    config["routed_scaling_factor"] = scaling.unwrap_or(1.0).into();
    let norm = keys.own_flag("expert_weights_norm")?;
    config["norm_topk_prob"] = norm.unwrap_or(false).into();
    config["n_group"] = keys.size("expert_group_count")?.unwrap_or(1).into();
    config["topk_group"] = keys.size("expert_group_used_count")?.unwrap_or(1).into();
    Ok(())
}

/// Keys and values that are unfolded from a small row. `key_length` and `value_length` are those of the small row where the keys
/// that end in `_mla` say those of a head.
fn latent(keys: &Keys<'_>, config: &mut Value) -> Result<(), ContainerError> {
    let turned = keys.need("rope.dimension_count")?;
    let small = [
        keys.need("attention.key_length")?,
        keys.need("attention.value_length")?,
    ];
    let key = keys.size("attention.key_length_mla")?.unwrap_or(small[0]);
    let value = keys.size("attention.value_length_mla")?.unwrap_or(small[1]);
    if key <= turned {
        let expected = format!("above the {turned} features that turn");
        return Err(keys.refused("attention.key_length", key, expected));
    }
    config["num_key_value_heads"] = config["num_attention_heads"].clone();
    config["q_lora_rank"] = keys.size("attention.q_lora_rank")?.into();
    config["kv_lora_rank"] = keys.need("attention.kv_lora_rank")?.into();
    config["qk_rope_head_dim"] = turned.into();
    config["qk_nope_head_dim"] = (key - turned).into();
    config["v_head_dim"] = value.into();
    if let (Some(all), Value::Object(scaling)) = (
        keys.float("rope.scaling.yarn_log_multiplier")?,
        &mut config["rope_scaling"],
    ) {
        let all = ((all / TENTH) as f32)
            .to_string()
            .parse::<f64>()
            .unwrap_or(1.0);
        for field in ["mscale", "mscale_all_dim"] {
            scaling.insert(field.to_owned(), all.into());
        }
    }
    Ok(())
}
