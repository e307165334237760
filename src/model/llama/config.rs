//! `config.json` of the Llama family, in both dialects of transformers.
//!
//! ```text
//!             version 5                          version 4
//! positions   rope_parameters.rope_theta         rope_theta
//!             rope_parameters.{rope_type, ..}    rope_scaling.{rope_type or type, ..}, or null
//! ```
//!
//! Defaults for an absent field are those of transformers 5.23 for the family. Vocabulary, features, layers,
//! query heads and positions have none here: every checkpoint says them, and a guess would only move the
//! error. What type the weights are in is not asked: each tensor says its own.

use serde_json::Value;

use crate::model::{
    ConfigError,
    fields::Fields,
    rope::{Rope, RopeScaling},
};

/// More layers than any model has; a number above it is a broken file.
const LAYERS_MAX: usize = 1 << 16;

/// A member of the family: what it does differently from Llama.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Family {
    /// Biases where the file says so.
    Llama,
    /// A window on every layer, if there is one.
    Mistral,
    /// Biases on queries, keys and values. A window on some layers, if there is one.
    Qwen2,
    /// Queries and keys normalised. A window on some layers, if there is one.
    Qwen3,
}

impl Family {
    /// All of them, in the order they are listed to people.
    pub const ALL: [Self; 4] = [Self::Llama, Self::Mistral, Self::Qwen2, Self::Qwen3];

    /// `model_type`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }
}

/// What a checkpoint of the Llama family is made of, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct LlamaConfig {
    /// Which member of the family.
    pub family: Family,
    /// Rows of the embedding, and logits.
    pub vocabulary: usize,
    /// Features between layers.
    pub features: usize,
    /// Features inside an MLP.
    pub mlp_features: usize,
    /// Query heads of a layer, a multiple of `key_value_heads`.
    pub heads: usize,
    /// Key and value heads of a layer.
    pub key_value_heads: usize,
    /// Features of a head, an even number.
    pub head_features: usize,
    /// Tokens that a query sees, itself included, in each layer; `None`: all before it. One entry a
    /// layer.
    pub windows: Vec<Option<usize>>,
    /// Tokens in a context at most.
    pub positions: usize,
    /// Keeps an all-zero row finite when it is normalised.
    pub norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// How the rotary frequencies are stretched.
    pub rope_scaling: RopeScaling,
    /// Biases on the projections to queries, keys and values.
    pub qkv_bias: bool,
    /// A bias on the projection out of attention.
    pub o_bias: bool,
    /// Biases in the MLP.
    pub mlp_bias: bool,
    /// Queries and keys are normalised.
    pub qk_norm: bool,
    /// The head is the embedding.
    pub tied: bool,
}

impl LlamaConfig {
    /// Reads `config.json`.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for another architecture, for a checkpoint that is already quantized, and for
    /// values that cannot be or are not supported.
    pub fn from_json(json: &Value) -> Result<Self, ConfigError> {
        let fields = Fields::root(json)?;
        let family = family(fields)?;
        refuse_other_activations(fields)?;

        let flag = |field| Ok(fields.flag(field)?.unwrap_or(false));
        let [heads, key_value_heads, head_features] = heads(fields, family)?;
        let positions = required(fields, "max_position_embeddings")?;
        let (rope_theta, rope_scaling) = rope(fields)?;
        if !Rope::new(head_features, rope_theta, rope_scaling).reaches(positions) {
            return Err(fields.value(
                "rope_theta",
                rope_theta,
                format!(
                    "a base that with {rope_scaling:?} gives finite angles at {positions} positions"
                ),
            ));
        }
        let attention_bias = match family {
            Family::Llama | Family::Qwen3 => flag("attention_bias")?,
            Family::Mistral | Family::Qwen2 => false,
        };

        Ok(Self {
            family,
            vocabulary: required(fields, "vocab_size")?,
            features: required(fields, "hidden_size")?,
            mlp_features: required(fields, "intermediate_size")?,
            heads,
            key_value_heads,
            head_features,
            windows: windows(fields, family)?,
            positions,
            norm_eps: fields.positive("rms_norm_eps")?.unwrap_or(1e-6),
            rope_theta,
            rope_scaling,
            qkv_bias: attention_bias || family == Family::Qwen2,
            o_bias: attention_bias,
            mlp_bias: family == Family::Llama && flag("mlp_bias")?,
            qk_norm: family == Family::Qwen3,
            tied: flag("tie_word_embeddings")?,
        })
    }
}

fn required(fields: Fields<'_>, field: &str) -> Result<usize, ConfigError> {
    fields.count(field)?.ok_or_else(|| fields.missing(field))
}

fn family(fields: Fields<'_>) -> Result<Family, ConfigError> {
    let found = fields
        .text("model_type")?
        .ok_or_else(|| fields.missing("model_type"))?;
    Family::ALL
        .into_iter()
        .find(|family| family.name() == found)
        .ok_or_else(|| ConfigError::Architecture {
            found: found.to_owned(),
            known: Family::ALL.map(Family::name).join(", "),
        })
}

fn refuse_other_activations(fields: Fields<'_>) -> Result<(), ConfigError> {
    match fields.text("hidden_act")? {
        // Two names of one function.
        None | Some("silu" | "swish") => Ok(()),
        Some(other) => Err(fields.unsupported("hidden_act", other, "silu")),
    }
}

/// Query heads, key and value heads, and features of a head.
///
/// Of the last two, `null` means what it meant when the first Llama had neither: as many as there are
/// query heads, and the features divided among them. Absent is the default of the family.
fn heads(fields: Fields<'_>, family: Family) -> Result<[usize; 3], ConfigError> {
    let (features, heads) = (
        required(fields, "hidden_size")?,
        required(fields, "num_attention_heads")?,
    );
    let by_default = match family {
        _ if fields.names("num_key_value_heads") => None,
        Family::Llama => None,
        Family::Mistral => Some(8),
        Family::Qwen2 | Family::Qwen3 => Some(32),
    };
    let key_value = fields.count("num_key_value_heads")?;
    let key_value = key_value.or(by_default).unwrap_or(heads);
    if heads % key_value != 0 {
        let found = match by_default {
            Some(_) => format!("absent, which is {key_value} for {}", family.name()),
            None => key_value.to_string(),
        };
        return Err(fields.value(
            "num_key_value_heads",
            found,
            format!("a divisor of the {heads} of `num_attention_heads`"),
        ));
    }
    let head = match fields.count("head_dim")? {
        Some(head) => head,
        None if family == Family::Qwen3 && !fields.names("head_dim") => 128,
        None if features % heads == 0 => features / heads,
        None => {
            return Err(fields.value(
                "hidden_size",
                features,
                format!("a multiple of the {heads} of `num_attention_heads`, or a `head_dim`"),
            ));
        }
    };
    if head % 2 != 0 {
        return Err(fields.value("head_dim", head, "an even number, to be rotated in pairs"));
    }
    Ok([heads, key_value, head])
}

/// How far each layer looks back.
fn windows(fields: Fields<'_>, family: Family) -> Result<Vec<Option<usize>>, ConfigError> {
    let layers = required(fields, "num_hidden_layers")?;
    if layers > LAYERS_MAX {
        return Err(fields.value("num_hidden_layers", layers, format!("{LAYERS_MAX} at most")));
    }
    // Absent and `null` differ here: absent is the default of transformers, `null` no window.
    let window = || match fields.names("sliding_window") {
        true => fields.count("sliding_window"),
        false => Ok(Some(4096)),
    };
    let (window, from) = match family {
        Family::Llama => (None, 0),
        Family::Mistral => (window()?, 0),
        Family::Qwen2 | Family::Qwen3 => {
            let used = fields.flag("use_sliding_window")?.unwrap_or(false);
            let window = if used { window()? } else { None };
            (window, fields.index("max_window_layers")?.unwrap_or(28))
        }
    };
    let by_depth = (0..layers).map(|layer| window.filter(|_| layer >= from));

    // Only the Qwens go by the list; for the others transformers ignores it.
    let types = match family {
        Family::Llama | Family::Mistral => None,
        Family::Qwen2 | Family::Qwen3 => fields.texts("layer_types")?,
    };
    let Some(types) = types else {
        return Ok(by_depth.collect());
    };
    if types.len() != layers {
        return Err(fields.value(
            "layer_types",
            format!("a list of {}", types.len()),
            format!("one entry for each of the {layers} layers"),
        ));
    }
    types
        .into_iter()
        .map(|kind| match kind {
            "full_attention" => Ok(None),
            "sliding_attention" => Ok(window),
            other => {
                Err(fields.unsupported("layer_types", other, "full_attention, sliding_attention"))
            }
        })
        .collect()
}

/// Base and scaling of the rotary frequencies.
fn rope(fields: Fields<'_>) -> Result<(f64, RopeScaling), ConfigError> {
    let nested = match fields.object("rope_scaling", "rope_scaling.")? {
        Some(old) if !old.is_empty() => Some(old),
        _ => fields.object("rope_parameters", "rope_parameters.")?,
    };
    // Frequencies for each kind of layer: to read them as one kind would pass for the default.
    if let Some((rope, kind)) = nested.and_then(|rope| Some((rope, rope.nested()?))) {
        return Err(rope.unsupported(kind, "frequencies of its own", "one kind for all layers"));
    }
    let theta = match nested.map(|rope| rope.positive("rope_theta")).transpose()? {
        Some(Some(theta)) => theta,
        _ => fields.positive("rope_theta")?.unwrap_or(10_000.0),
    };
    for place in [Some(fields), nested].into_iter().flatten() {
        match place.positive("partial_rotary_factor")? {
            None | Some(1.0) => {}
            Some(part) => {
                return Err(place.unsupported("partial_rotary_factor", part, "1"));
            }
        }
    }
    let scaling = match nested {
        Some(rope) => scaling(fields, rope)?,
        None => RopeScaling::None,
    };
    Ok((theta, scaling))
}

fn scaling(fields: Fields<'_>, rope: Fields<'_>) -> Result<RopeScaling, ConfigError> {
    // Narrowed before they are compared: two numbers that differ may be one number as f32.
    let number = |field| match rope.positive(field)? {
        Some(number) => Ok(number as f32),
        None => Err(rope.missing(field)),
    };
    let (field, kind) = match (rope.text("rope_type")?, rope.text("type")?) {
        (Some(kind), _) => ("rope_type", kind),
        (None, Some(kind)) => ("type", kind),
        (None, None) => ("rope_type", "default"),
    };
    match kind {
        "default" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear {
            factor: number("factor")?,
        }),
        "llama3" => {
            let original = "original_max_position_embeddings";
            let original_positions = match rope.count(original)? {
                Some(positions) => positions,
                None => fields
                    .count(original)?
                    .ok_or_else(|| rope.missing(original))?,
            };
            let (low, high) = (number("low_freq_factor")?, number("high_freq_factor")?);
            if low >= high {
                return Err(rope.value(
                    "low_freq_factor",
                    low,
                    format!("less than the {high} of `high_freq_factor`"),
                ));
            }
            Ok(RopeScaling::Llama3 {
                factor: number("factor")?,
                low_freq_factor: low,
                high_freq_factor: high,
                original_positions,
            })
        }
        other => Err(rope.unsupported(field, other, "default, linear, llama3")),
    }
}
