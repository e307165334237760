//! The rotation of queries and keys: keys and tensors of a file, and fields of `config.json`.

use serde_json::{Map, Value, json};

use super::{ContainerError, family::GgufFamily, keys::Keys, parts::GgufParts};
use crate::source::{Source, SourceError, SourceExt, StoredType, gguf::GgufType};

/// What frequencies are divided by: in any text, and in short and long ones.
pub(super) const DIVISORS: &str = "rope_freqs.weight";
pub(super) const SHORT: &str = "rope_factors_short.weight";
pub(super) const LONG: &str = "rope_factors_long.weight";

/// Keys of YaRN, and the fields that they are.
pub(super) const YARN: [(&str, &str); 2] = [
    ("rope.scaling.yarn_beta_fast", "beta_fast"),
    ("rope.scaling.yarn_beta_slow", "beta_slow"),
];

/// What a file multiplies sines and cosines by.
const FACTOR: &str = "rope.scaling.attn_factor";

/// What frequencies are divided by, one number a pair.
#[derive(Debug, Default)]
pub(super) struct Divisors {
    /// In any text.
    pub(super) always: Option<Vec<f32>>,
    /// In texts up to the length of the first training, and in longer ones.
    pub(super) by_length: Option<[Vec<f32>; 2]>,
}

impl Divisors {
    /// Those among tensors that are found by name.
    pub(super) fn of(find: impl Fn(&str) -> Option<Vec<f32>>) -> Self {
        let by_length = find(SHORT).zip(find(LONG));
        Self {
            always: find(DIVISORS),
            by_length: by_length.map(|(short, long)| [short, long]),
        }
    }

    /// Takes them out of the tensors, and reads them.
    pub(super) fn take(source: &dyn Source, parts: &mut GgufParts) -> Result<Self, SourceError> {
        let mut read = |name| numbers(source, parts, name);
        let always = read(DIVISORS)?;
        let by_length = match (read(SHORT)?, read(LONG)?) {
            (Some(short), Some(long)) => Some([short, long]),
            _ => None,
        };
        Ok(Self { always, by_length })
    }
}

/// Takes a small tensor of floats out of the others, and reads it.
fn numbers(
    source: &dyn Source,
    parts: &mut GgufParts,
    name: &str,
) -> Result<Option<Vec<f32>>, SourceError> {
    /// More than the features of a head.
    const BYTES_MAX: u64 = 1 << 16;
    let file = parts.files[parts.part_of(name)].clone();
    let tensors = &mut parts.header.tensors;
    let found = tensors.iter().position(|tensor| {
        let small = tensor.range.end - tensor.range.start <= BYTES_MAX;
        tensor.name == name && tensor.kind == GgufType::Plain(StoredType::F32) && small
    });
    let Some(found) = found else {
        return Ok(None);
    };
    let range = tensors.remove(found).range;
    let mut bytes = vec![0; (range.end - range.start) as usize];
    source.peek(&file, range.start, &mut bytes)?;
    let (values, _) = bytes.as_chunks();
    let values = values.iter().map(|value| f32::from_le_bytes(*value));
    Ok(Some(values.collect()))
}

/// The fields of the rotation of heads of `head` features.
pub(super) fn rotary(
    keys: &Keys<'_>,
    family: &GgufFamily,
    head: usize,
    divisors: &Divisors,
    config: &mut Value,
) -> Result<(), ContainerError> {
    const TURNED: &str = "rope.dimension_count";
    let turned = keys.size(TURNED)?.unwrap_or(head);
    match family.rotary_part {
        Some(field) => config[field] = (turned as f64 / head as f64).into(),
        None if turned != head => {
            let expected = format!("{head}, the length of a key");
            return Err(keys.refused(TURNED, turned, expected));
        }
        None => {}
    }
    let theta = keys.float("rope.freq_base")?.unwrap_or(10_000.0);
    let theta_field = match family.model_type {
        "gpt_neox" => "rotary_emb_base",
        _ => "rope_theta",
    };
    config[theta_field] = theta.into();
    if let Some(near) = keys.float("rope.freq_base_swa")? {
        let expected = format!("{theta}, the base of all layers");
        match family.model_type {
            "gemma3_text" => config["rope_local_base_freq"] = near.into(),
            _ if near != theta => return Err(keys.refused("rope.freq_base_swa", near, expected)),
            _ => {}
        }
    }
    match scaling(keys, divisors, theta)? {
        Some(scaling) => config["rope_scaling"] = scaling,
        // Without a word, transformers stretches them.
        None if family.model_type == "gpt_oss" => {
            config["rope_scaling"] = json!({ "rope_type": "default" });
        }
        None => {}
    }
    // The long lists of Phi are for texts beyond the first training.
    if let (Some(_), Some(original)) = (
        &divisors.by_length,
        keys.size("rope.scaling.original_context_length")?,
    ) {
        config["original_max_position_embeddings"] = original.into();
    }
    if family.model_type == "gpt_oss" && config["rope_scaling"]["rope_type"] == "yarn" {
        // llama.cpp rounds the bounds; OpenAI's own code and transformers do not.
        config["rope_scaling"]["truncate"] = false.into();
    }
    Ok(())
}

/// How frequencies are stretched.
fn scaling(
    keys: &Keys<'_>,
    divisors: &Divisors,
    theta: f64,
) -> Result<Option<Value>, ContainerError> {
    const TYPE: &str = "rope.scaling.type";
    let factor = keys.float("rope.scaling.factor")?;
    let original = keys.size("rope.scaling.original_context_length")?;
    let attention = keys.float(FACTOR)?;
    let kind = keys.text(TYPE)?;
    if let Some([short, long]) = &divisors.by_length {
        return match kind {
            None | Some("none" | "longrope") => Ok(Some(json!({
                "rope_type": "longrope",
                "short_factor": short,
                "long_factor": long,
                "attention_factor": attention,
            }))),
            Some(found) => Err(keys.refused(TYPE, found, "longrope beside its lists")),
        };
    }
    let mut scaling = Map::new();
    match (kind, &divisors.always) {
        (None | Some("none"), None) => return Ok(None),
        (None | Some("none"), Some(divisors)) => {
            return stretched(keys, divisors, theta).map(Some);
        }
        (Some(found), Some(_)) => {
            let expected = "absent beside rope_freqs.weight";
            return Err(keys.refused(TYPE, found, expected));
        }
        (Some(kind @ ("linear" | "yarn")), None) => {
            scaling.insert("rope_type".to_owned(), kind.into());
            scaling.insert("factor".to_owned(), factor.into());
            if let (Some(original), "yarn") = (original, kind) {
                let field = "original_max_position_embeddings".to_owned();
                scaling.insert(field, original.into());
            }
            // llama.cpp multiplies by it what YaRN multiplies by anyway.
            if let (Some(attention), Some(factor), "yarn") = (attention, factor, kind) {
                let all = attention * (0.1 * factor.max(1.0).ln() + 1.0);
                scaling.insert("attention_factor".to_owned(), all.into());
            }
            for (key, field) in YARN.iter().filter(|_| kind == "yarn") {
                if let Some(value) = keys.float(key)? {
                    scaling.insert((*field).to_owned(), value.into());
                }
            }
        }
        (Some(found), None) => {
            return Err(keys.refused(
                TYPE,
                found,
                "none, linear, yarn, or longrope with its lists",
            ));
        }
    }
    Ok(Some(Value::Object(scaling)))
}

/// The scaling that gives these divisors: that of Llama 3, of which models use one set of parameters but for the factor, the
/// divisor of the lowest frequency; else the divisors themselves, the same for texts of any length.
fn stretched(keys: &Keys<'_>, divisors: &[f32], theta: f64) -> Result<Value, ContainerError> {
    const LOW: f64 = 1.0;
    const HIGH: f64 = 4.0;
    const ORIGINAL: f64 = 8192.0;
    if let Some(k) = (divisors.iter()).position(|found| !(found.is_finite() && *found > 0.0)) {
        return Err(keys.divisor(k, divisors[k]));
    }
    let factor = divisors.last().copied().map_or(1.0, f64::from);
    let features = 2.0 * divisors.len() as f64;
    let is_llama = divisors.iter().enumerate().all(|(k, found)| {
        let wave = core::f64::consts::TAU * theta.powf(2.0 * k as f64 / features);
        let turns = ORIGINAL / wave;
        let expected = if turns > HIGH {
            1.0
        } else if turns < LOW {
            factor
        } else {
            let smooth = (turns - LOW) / (HIGH - LOW);
            1.0 / ((1.0 - smooth) / factor + smooth)
        };
        (f64::from(*found) - expected).abs() <= 1e-4 * expected
    });
    Ok(match is_llama {
        true => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": LOW,
            "high_freq_factor": HIGH,
            "original_max_position_embeddings": ORIGINAL as u32,
        }),
        false => json!({
            "rope_type": "longrope",
            "short_factor": divisors,
            "long_factor": divisors,
            "attention_factor": 1.0,
        }),
    })
}
