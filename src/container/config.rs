//! From the keys of a file to `config.json`.

use serde_json::{Map, Value, json};

use super::{ContainerError, family::GgufFamily, keys::Keys};
use crate::{
    dialect::gguf,
    source::gguf::{GgufHeader, GgufType},
};

/// Keys that change no number, or say again what a tensor or another key says.
const HARMLESS: [&str; 4] = [
    "vocab_size",
    "attention.causal",
    "use_parallel_residual",
    "rope.scaling.finetuned",
];

/// Keys of YaRN, and the fields that they are.
const YARN: [(&str, &str); 3] = [
    ("rope.scaling.attn_factor", "attention_factor"),
    ("rope.scaling.yarn_beta_fast", "beta_fast"),
    ("rope.scaling.yarn_beta_slow", "beta_slow"),
];

/// `config.json` of the model; `divisors` are those of the frequencies, where the file has them.
pub(super) fn config(
    keys: &Keys<'_>,
    family: &GgufFamily,
    header: &GgufHeader,
    divisors: Option<&[f32]>,
) -> Result<Value, ContainerError> {
    let tensor = |name: &str| header.tensors.iter().find(|tensor| tensor.name == name);
    let features = keys.need("embedding_length")?;
    let heads = keys.need("attention.head_count")?;
    let head = keys.size("attention.key_length")?;
    let head = head.unwrap_or(features / heads);
    for same in ["attention.value_length", "rope.dimension_count"] {
        match keys.size(same)? {
            Some(found) if found != head => {
                return Err(keys.refused(same, found, format!("{head}, the length of a key")));
            }
            _ => {}
        }
    }
    let rows = |name: &str| tensor(name).and_then(|tensor| tensor.shape.first().copied());
    let vocabulary = rows("token_embd.weight").or(keys.size("vocab_size")?);
    let mut config = json!({
        "model_type": family.model_type,
        "hidden_size": features,
        "num_hidden_layers": keys.need("block_count")?,
        "intermediate_size": keys.need("feed_forward_length")?,
        "num_attention_heads": heads,
        "num_key_value_heads": keys.size_of_all("attention.head_count_kv")?.unwrap_or(heads),
        "head_dim": head,
        "rms_norm_eps": keys.need_float("attention.layer_norm_rms_epsilon")?,
        "max_position_embeddings": keys.size("context_length")?,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tensor("output.weight").is_none(),
    });
    if ["granite", "llama", "smollm3"].contains(&family.model_type) {
        config["attention_bias"] = tensor("blk.0.attn_q.bias").is_some().into();
        config["mlp_bias"] = tensor("blk.0.ffn_up.bias").is_some().into();
    }
    if family.model_type.starts_with("gemma") {
        gemma(keys, &mut config, [features / heads, head])?;
    }
    for (key, field) in family.floats {
        config[*field] = keys.need_float(key)?.into();
    }
    rotary(keys, divisors, &mut config)?;
    for (field, key) in [
        ("bos_token_id", "tokenizer.ggml.bos_token_id"),
        ("eos_token_id", "tokenizer.ggml.eos_token_id"),
        ("pad_token_id", "tokenizer.ggml.padding_token_id"),
    ] {
        if let Some(id) = keys.token(key) {
            config[field] = id.into();
        }
    }
    let blocks = |kind| matches!(kind, GgufType::Blocks(_));
    if header.tensors.iter().any(|tensor| blocks(tensor.kind)) {
        config["quantization_config"] = json!({ "quant_method": gguf::NAME });
    }
    keys.check_all_asked(&HARMLESS)?;
    Ok(config)
}

/// What Gemma has beside the others. Files lack the scale of scores: the largest model of each generation has that of its
/// features, the others that of a head, by which llama.cpp goes as well.
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
    config["sliding_window"] = keys.need("attention.sliding_window")?.into();
    for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
        if let Some(value) = keys.float(key)? {
            config[key] = value.into();
        }
    }
    if let Some(theta) = keys.float("rope.freq_base_swa")? {
        config["rope_local_base_freq"] = theta.into();
    }
    Ok(())
}

/// The rotary embedding.
fn rotary(
    keys: &Keys<'_>,
    divisors: Option<&[f32]>,
    config: &mut Value,
) -> Result<(), ContainerError> {
    let theta = keys.float("rope.freq_base")?.unwrap_or(10_000.0);
    config["rope_theta"] = theta.into();
    let factor = keys.float("rope.scaling.factor")?;
    let original = keys.size("rope.scaling.original_context_length")?;
    let mut scaling = Map::new();
    match keys.text("rope.scaling.type")? {
        None | Some("none") => {
            if let Some(divisors) = divisors {
                config["rope_scaling"] = llama3(keys, divisors, theta)?;
            }
            return Ok(());
        }
        Some(found) if divisors.is_some() => {
            let expected = "absent beside rope_freqs.weight";
            return Err(keys.refused("rope.scaling.type", found, expected));
        }
        Some(kind @ ("linear" | "yarn")) => {
            scaling.insert("rope_type".to_owned(), kind.into());
            scaling.insert("factor".to_owned(), factor.into());
            if let (Some(original), "yarn") = (original, kind) {
                let field = "original_max_position_embeddings".to_owned();
                scaling.insert(field, original.into());
            }
            for (key, field) in YARN.iter().filter(|_| kind == "yarn") {
                if let Some(value) = keys.float(key)? {
                    scaling.insert((*field).to_owned(), value.into());
                }
            }
        }
        Some(found) => {
            return Err(keys.refused("rope.scaling.type", found, "none, linear or yarn"));
        }
    }
    config["rope_scaling"] = Value::Object(scaling);
    Ok(())
}

/// The scaling of Llama 3 that gives these divisors: the file has them in place of its parameters, of which models use one
/// set, but for the factor. That is the divisor of the lowest frequency.
fn llama3(keys: &Keys<'_>, divisors: &[f32], theta: f64) -> Result<Value, ContainerError> {
    const LOW: f64 = 1.0;
    const HIGH: f64 = 4.0;
    const ORIGINAL: f64 = 8192.0;
    let factor = divisors.last().copied().map_or(1.0, f64::from);
    let features = 2.0 * divisors.len() as f64;
    let differs = divisors.iter().enumerate().find(|(k, found)| {
        let wave = core::f64::consts::TAU * theta.powf(2.0 * *k as f64 / features);
        let turns = ORIGINAL / wave;
        let expected = if turns > HIGH {
            1.0
        } else if turns < LOW {
            factor
        } else {
            let smooth = (turns - LOW) / (HIGH - LOW);
            1.0 / ((1.0 - smooth) / factor + smooth)
        };
        // A NaN differs.
        let same = (f64::from(**found) - expected).abs() <= 1e-4 * expected;
        !same
    });
    match differs {
        None => Ok(json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": LOW,
            "high_freq_factor": HIGH,
            "original_max_position_embeddings": ORIGINAL as u32,
        })),
        Some((k, found)) => Err(keys.divisor(k, *found)),
    }
}
