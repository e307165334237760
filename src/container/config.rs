//! From the keys of a file to `config.json`.

use serde_json::{Value, json};

use super::{
    ContainerError,
    family::{ExpertKeys, GgufFamily, LayerWindow},
    file_tensors::FileTensors,
    gemma4::gemma4,
    hybrid::hybrid,
    keys::Keys,
    rotary::{Divisors, rotary},
    special::special,
};
use crate::{
    dialect::gguf,
    source::gguf::{GgufHeader, GgufType},
};

/// Keys that change no number, or say again what a tensor or another key says.
const HARMLESS: [&str; 4] = [
    "vocab_size",
    "attention.causal",
    "rope.scaling.finetuned",
    "rope.scaling.yarn_ext_factor",
];

/// `config.json` of the model; `divisors` are those of the frequencies, where the file has them.
pub(super) fn config(
    keys: &Keys<'_>,
    family: &GgufFamily,
    header: &GgufHeader,
    divisors: &Divisors,
) -> Result<Value, ContainerError> {
    let tensors = FileTensors(header);
    let features = keys.need("embedding_length")?;
    let heads = keys.need("attention.head_count")?;
    let head = match family.is_latent() {
        true => keys.size("rope.dimension_count")?,
        false => keys.size("attention.key_length")?,
    };
    let head = head.unwrap_or(features / heads);
    match keys.size("attention.value_length")? {
        Some(found) if found != head && !family.is_latent() => {
            let expected = format!("{head}, the length of a key");
            return Err(keys.refused("attention.value_length", found, expected));
        }
        _ => {}
    }
    let vocabulary = tensors.side("token_embd.weight", 0);
    let mut config = json!({
        "model_type": family.model_type,
        "hidden_size": features,
        "num_hidden_layers": keys.need("block_count")?,
        "num_attention_heads": heads,
        "num_key_value_heads": match family.name {
            "gemma4" => None,
            _ => Some(keys.size_of_all("attention.head_count_kv")?.unwrap_or(heads)),
        },
        "head_dim": head,
        "max_position_embeddings": keys.size("context_length")?,
        "vocab_size": vocabulary.or(keys.size("vocab_size")?),
        "tie_word_embeddings": !tensors.has("output.weight"),
    });
    let inner = match family.has_experts() {
        _ if family.name == "gemma4" => None,
        // Where every layer has experts, nobody asks for it.
        true => keys.size_of_all("feed_forward_length")?.or(Some(features)),
        false => match keys.size_of_all("feed_forward_length")? {
            None => Some(keys.need("feed_forward_length")?),
            inner => inner,
        },
    };
    config["intermediate_size"] = inner.into();
    let (key, field) = family.norm;
    config[field] = keys.need_float(key)?.into();
    for (flag, tensor) in family.biases {
        config[*flag] = tensors.has(tensor).into();
    }
    for (key, field) in family.floats {
        config[*field] = keys.need_float(key)?.into();
    }
    match family.name {
        "gemma4" => gemma4(keys, &tensors, head, divisors, &mut config)?,
        _ => rotary(keys, family, head, divisors, &mut config)?,
    }
    windows(keys, family, &mut config)?;
    if let Some(experts) = &family.experts {
        self::experts(keys, experts, &tensors, &mut config)?;
    }
    special(keys, family, [features / heads, head], &mut config)?;
    if family.is_hybrid() {
        hybrid(keys, family, &mut config)?;
    }
    for (field, key) in [
        ("bos_token_id", "tokenizer.ggml.bos_token_id"),
        ("eos_token_id", "tokenizer.ggml.eos_token_id"),
        ("pad_token_id", "tokenizer.ggml.padding_token_id"),
    ] {
        if let Some(id) = keys.token(key) {
            config[field] = id.into();
        }
    }
    declare(&mut config, header);
    keys.check_all_asked(&HARMLESS)?;
    Ok(config)
}

/// The end of the error for an architecture that is not known here. transformers may have another architecture of the same name.
pub(super) const UNKNOWN: &str = " of llama.cpp";

/// `config.json` of a file whose architecture is not known: no model is loaded by it, and all else works.
pub(super) fn bare(architecture: &str, header: &GgufHeader) -> Value {
    let mut config = json!({ "model_type": format!("{architecture}{UNKNOWN}") });
    declare(&mut config, header);
    config
}

/// Says that weights are blocks, where some are.
fn declare(config: &mut Value, header: &GgufHeader) {
    let blocks = |kind| matches!(kind, GgufType::Blocks(_));
    if header.tensors.iter().any(|tensor| blocks(tensor.kind)) {
        config["quantization_config"] = json!({ "quant_method": gguf::NAME });
    }
}

/// The window, and the layers that have it.
fn windows(keys: &Keys<'_>, family: &GgufFamily, config: &mut Value) -> Result<(), ContainerError> {
    const PATTERN: &str = "attention.sliding_window_pattern";
    // A window of 0 is none.
    let window = keys
        .number("attention.sliding_window")?
        .filter(|window| *window > 0);
    let usual = match family.window {
        LayerWindow::But(usual) => Some(usual),
        LayerWindow::Listed => None,
        LayerWindow::Never => {
            if family.model_type == "phi3" {
                config["sliding_window"] = window.into();
            }
            return Ok(());
        }
    };
    let layers = keys.need("block_count")?;
    // llama.cpp looks at the window of the largest one alone.
    let window = window.filter(|_| family.name != "exaone4" || layers == 64);
    let windowed = match keys.own_flags(PATTERN)? {
        Some(flags) if flags.len() != layers => {
            let expected = format!("a list of {layers}, one for each layer");
            return Err(keys.refused(PATTERN, format!("a list of {}", flags.len()), expected));
        }
        Some(flags) => flags.to_vec(),
        None => {
            let every = match usual {
                Some(usual) => keys.size(PATTERN)?.unwrap_or(usual),
                None => keys.need(PATTERN)?,
            };
            (1..=layers).map(|layer| layer % every != 0).collect()
        }
    };
    if family.name == "olmo2" && window.is_some() {
        config["model_type"] = "olmo3".into();
    }
    config["sliding_window"] = window.into();
    if window.is_some() {
        let types = windowed.iter().map(|windowed| match windowed {
            true => "sliding_attention",
            false => "full_attention",
        });
        config["layer_types"] = types.collect();
    }
    Ok(())
}

/// The experts of the layers.
fn experts(
    keys: &Keys<'_>,
    family: &ExpertKeys,
    tensors: &FileTensors<'_>,
    config: &mut Value,
) -> Result<(), ContainerError> {
    config[family.count] = keys.need("expert_count")?.into();
    config["num_experts_per_tok"] = keys.need("expert_used_count")?.into();
    for (field, key, tensor, side) in [
        (
            family.features,
            "expert_feed_forward_length",
            "blk.0.ffn_gate_exps.weight",
            1,
        ),
        (
            family.shared,
            "expert_shared_feed_forward_length",
            "blk.0.ffn_gate_shexp.weight",
            0,
        ),
    ] {
        if let Some(field) = field {
            // Older files leave it to the tensor.
            let features = keys.size_of_all(key)?.or(tensors.side(tensor, side));
            config[field] = features.into();
        }
    }
    Ok(())
}
