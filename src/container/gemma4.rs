//! What Gemma 4 has beside the others: full layers with heads of their own, layers that use the keys of earlier ones, small embeddings
//! for each layer.

use serde_json::{Map, Value, json};

use super::{ContainerError, file_tensors::FileTensors, keys::Keys, rotary::Divisors};

/// Divisors from here on leave a pair as it is: llama.cpp's converter writes 1e30.
const STILL: f32 = 1e10;

/// Fields of heads, rotations, MLPs and small embeddings; `head` are the features of a head of a full layer.
pub(super) fn gemma4(
    keys: &Keys<'_>,
    tensors: &FileTensors<'_>,
    head: usize,
    divisors: &Divisors,
    config: &mut Value,
) -> Result<(), ContainerError> {
    let layers = keys.need("block_count")?;
    let near = keys.need("attention.key_length_swa")?;
    for (key, expected) in [
        ("attention.value_length_swa", near),
        ("rope.dimension_count", head),
        ("rope.dimension_count_swa", near),
    ] {
        match keys.size(key)? {
            Some(found) if found != expected => {
                return Err(keys.refused(key, found, format!("{expected}, the length of a key")));
            }
            _ => {}
        }
    }
    config["head_dim"] = near.into();
    heads(keys, tensors, [head, near], layers, config)?;
    let shared = keys.number("attention.shared_kv_layers")?.unwrap_or(0);
    config["num_kv_shared_layers"] = shared.into();
    inner(keys, layers, shared, config)?;

    let small = keys.number("embedding_length_per_layer_input")?;
    config["hidden_size_per_layer_input"] = small.unwrap_or(0).into();
    let rows = tensors.side("per_layer_token_embd.weight", 0);
    config["vocab_size_per_layer_input"] = rows.or(tensors.side("token_embd.weight", 0)).into();
    if let Some(cap) = keys.float("final_logit_softcapping")? {
        config["final_logit_softcapping"] = cap.into();
    }
    if let Some(count) = keys.number("expert_count")?.filter(|count| *count > 0) {
        config["enable_moe_block"] = true.into();
        config["num_experts"] = count.into();
        config["top_k_experts"] = keys.need("expert_used_count")?.into();
    }

    let theta = keys.float("rope.freq_base")?.unwrap_or(1_000_000.0);
    let near_theta = keys.float("rope.freq_base_swa")?.unwrap_or(10_000.0);
    let pairs = head / 2;
    let turning = divisors.always.as_ref().map_or(pairs, |divisors| {
        divisors.iter().filter(|divisor| **divisor < STILL).count()
    });
    if let Some(k) = divisors.always.as_ref().and_then(|divisors| {
        (divisors.iter()).position(|divisor| *divisor < STILL && *divisor != 1.0)
    }) {
        let found = divisors.always.as_ref().map_or(0.0, |divisors| divisors[k]);
        return Err(keys.divisor(k, found));
    }
    config["rope_parameters"] = json!({
        "full_attention": {
            "rope_type": "proportional", "rope_theta": theta,
            "partial_rotary_factor": part(turning, head),
        },
        "sliding_attention": { "rope_type": "default", "rope_theta": near_theta },
    });
    Ok(())
}

/// The share of a head that rotates, of which `turning` pairs do: multiplied by the width of the head and cut off, the share gives as many pairs
/// again.
fn part(turning: usize, head: usize) -> f64 {
    let part = 2.0 * turning as f64 / head as f64;
    match (part * head as f64 / 2.0) as usize == turning {
        true => part,
        false => (2.0 * turning as f64 + 0.5) / head as f64,
    }
}

/// Heads of the full layers, one by one; `[head, near]` are the features of those, and of layers with a window.
fn heads(
    keys: &Keys<'_>,
    tensors: &FileTensors<'_>,
    [head, near]: [usize; 2],
    layers: usize,
    config: &mut Value,
) -> Result<(), ContainerError> {
    const PATTERN: &str = "attention.sliding_window_pattern";
    let all = keys.need("attention.head_count")?;
    let counts = keys.sizes("attention.head_count_kv", layers)?;
    let counts = counts.unwrap_or(vec![all; layers]);
    let windowed = keys.own_flags(PATTERN)?.unwrap_or_default();
    let is_full = |nth: usize| !windowed.get(nth).copied().unwrap_or_default();
    let usual = (0..layers).find(|nth| !is_full(*nth)).unwrap_or(0);
    let usual = counts[usual];
    config["num_key_value_heads"] = usual.into();
    let mut full = (0..layers).filter(|nth| is_full(*nth));
    let has_values = |nth: usize| tensors.has(&format!("blk.{nth}.attn_v.weight"));
    let has_keys = |nth: usize| tensors.has(&format!("blk.{nth}.attn_k.weight"));
    let values_are_keys = full.any(|nth| has_keys(nth) && !has_values(nth));
    config["attention_k_eq_v"] = values_are_keys.into();
    let mut own = Map::new();
    for (nth, count) in counts.iter().enumerate() {
        let length = if is_full(nth) { head } else { near };
        if length != near || *count != usual {
            let heads = json!({ "head_dim": length, "num_key_value_heads": count });
            own.insert(nth.to_string(), heads);
        }
    }
    config["per_layer_config"] = own.into();
    Ok(())
}

/// Features of the MLPs: those of the last layers, which use the keys of others, may be twice as many.
fn inner(
    keys: &Keys<'_>,
    layers: usize,
    shared: usize,
    config: &mut Value,
) -> Result<(), ContainerError> {
    const KEY: &str = "feed_forward_length";
    let Some(sizes) = keys.sizes(KEY, layers)? else {
        config["intermediate_size"] = keys.need(KEY)?.into();
        return Ok(());
    };
    let first = sizes.first().copied().unwrap_or_default();
    let last = sizes.last().copied().unwrap_or_default();
    let is_wide = last == 2 * first && shared > 0;
    let expected = (0..layers).map(|nth| match is_wide && nth + shared >= layers {
        true => 2 * first,
        false => first,
    });
    if !sizes.iter().copied().eq(expected) {
        let expected =
            format!("{first} for all layers, and perhaps twice that for the last {shared}");
        return Err(keys.refused(KEY, format!("{sizes:?}"), expected));
    }
    config["intermediate_size"] = first.into();
    config["use_double_wide_mlp"] = is_wide.into();
    Ok(())
}
