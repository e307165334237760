//! What Qwen 3.5 and Qwen 3 Next have beside the others: layers with the delta rule in place of attention.

use serde_json::Value;

use super::{ContainerError, family::GgufFamily, keys::Keys};

/// Fields of the delta rule, and which layers have it.
///
/// Files of Qwen 3 Next have queries, keys and values in one matrix and gates in another, as transformers has them for Qwen 3.5, which
/// computes the same: they are shown as models of that family.
pub(super) fn hybrid(
    keys: &Keys<'_>,
    family: &GgufFamily,
    config: &mut Value,
) -> Result<(), ContainerError> {
    const FURTHER: &str = "nextn_predict_layers";
    if family.name == "qwen3next" {
        config["model_type"] = "qwen3_5_moe_text".into();
    }
    let further = keys.number(FURTHER)?.unwrap_or(0);
    let layers = keys.need("block_count")?;
    let Some(layers) = layers.checked_sub(further).filter(|layers| *layers > 0) else {
        return Err(keys.refused(
            FURTHER,
            further,
            format!("below the {layers} of block_count"),
        ));
    };
    config["num_hidden_layers"] = layers.into();
    let value_heads = keys.need("ssm.time_step_rank")?;
    let inner = keys.need("ssm.inner_size")?;
    if !inner.is_multiple_of(value_heads) {
        let expected = format!("a multiple of the {value_heads} heads of ssm.time_step_rank");
        return Err(keys.refused("ssm.inner_size", inner, expected));
    }
    config["linear_num_value_heads"] = value_heads.into();
    config["linear_value_head_dim"] = (inner / value_heads).into();
    config["linear_num_key_heads"] = keys.need("ssm.group_count")?.into();
    config["linear_key_head_dim"] = keys.need("ssm.state_size")?.into();
    config["linear_conv_kernel_dim"] = keys.need("ssm.conv_kernel")?.into();
    // The three numbers of a position are one in a text.
    keys.ask("rope.dimension_sections");
    let interval = keys.size("full_attention_interval")?.unwrap_or(4);
    let recurrent = match keys.own_flags("attention.recurrent_layers")? {
        Some(flags) => flags.iter().copied().take(layers).collect(),
        None => (1..=layers)
            .map(|nth| nth % interval != 0)
            .collect::<Vec<bool>>(),
    };
    let types = recurrent.iter().map(|recurrent| match recurrent {
        true => "linear_attention",
        false => "full_attention",
    });
    config["layer_types"] = types.collect();
    Ok(())
}
