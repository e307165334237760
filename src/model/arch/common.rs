//! Fields of `config.json` that most families have, in both dialects of transformers.
//!
//! ```text
//!             version 5                          version 4
//! positions   rope_parameters.rope_theta         rope_theta
//!             rope_parameters.{rope_type, ..}    rope_scaling.{rope_type or type, ..}, or null
//! ```
//!
//! Defaults for an absent field are those of transformers 5.23 for the family. Vocabulary, features, layers,
//! query heads and positions have none here: every checkpoint has them, and a guess would only move the
//! error. Nobody asks for the type of the weights: each tensor has its own.

use crate::model::{
    decoder::{
        AttentionSpec, EmbeddingSpec, FeedForwardSpec, HeadSpec, LLAMA, LayerSpec, MixerSpec,
        MlpSpec, Sees, Spec,
    },
    error::ConfigError,
    fields::Fields,
    layers::{Activation, NormSpec, Rope, RopeScaling, RotarySpec},
};

/// More layers than any model has; a number above it is a broken file.
const LAYERS_MAX: usize = 1 << 16;

/// The values of a family for fields that its files may leave out.
pub(super) struct Defaults {
    /// Of `num_key_value_heads`; `None`: the number of query heads.
    pub(super) key_value_heads: Option<usize>,
    /// Of `head_dim`; `None`: the features of the model, divided among the query heads.
    pub(super) head_features: Option<usize>,
}

/// A model like Llama: every layer alike, gated MLPs, norms before each half, no biases, everything before a token seen.
pub(super) fn spec(
    family: &'static str,
    fields: Fields<'_>,
    defaults: &Defaults,
) -> Result<Spec, ConfigError> {
    let activation = activation(fields, "hidden_act", Activation::Silu)?;
    let mlp = MlpSpec::gated(required(fields, "intermediate_size")?, activation);
    let norm = NormSpec::rms(fields.positive("rms_norm_eps")?.unwrap_or(1e-6));
    spec_of(family, fields, defaults, mlp, norm)
}

/// The same with another MLP and another norm in every layer.
pub(super) fn spec_of(
    family: &'static str,
    fields: Fields<'_>,
    defaults: &Defaults,
    mlp: MlpSpec,
    norm: NormSpec,
) -> Result<Spec, ConfigError> {
    let [heads, key_value_heads, head_features] = heads(family, fields, defaults)?;
    let positions = required(fields, "max_position_embeddings")?;
    let rotary = rotary(fields, head_features, positions)?;
    let attention = AttentionSpec::new(heads, key_value_heads, head_features, Some(rotary));
    let layer = LayerSpec::new(
        MixerSpec::Attention(attention),
        FeedForwardSpec::Mlp(mlp),
        norm,
    );
    Ok(Spec {
        family,
        vocabulary: required(fields, "vocab_size")?,
        features: required(fields, "hidden_size")?,
        positions,
        embedding: EmbeddingSpec::default(),
        layers: vec![layer; layers(fields, "num_hidden_layers")?],
        norm,
        head: HeadSpec::tied(tied(fields, false)?),
        transposed: false,
        names: &LLAMA,
        prefixes: LLAMA.prefixes(),
    })
}

/// Every layer's attention has biases where `attention_bias` says so.
pub(super) fn attention_biases(fields: Fields<'_>, spec: &mut Spec) -> Result<(), ConfigError> {
    let bias = flag(fields, "attention_bias")?;
    for (_, attention) in spec.attentions_mut() {
        attention.qkv_bias = bias;
        attention.o_bias = bias;
    }
    Ok(())
}

/// Every layer's MLP has biases where `mlp_bias` says so.
pub(super) fn mlp_biases(fields: Fields<'_>, spec: &mut Spec) -> Result<(), ConfigError> {
    let bias = flag(fields, "mlp_bias")?;
    for mlp in spec.mlps_mut() {
        mlp.bias = bias;
    }
    Ok(())
}

/// A whole number that has to be there.
pub(super) fn required(fields: Fields<'_>, field: &str) -> Result<usize, ConfigError> {
    fields.count(field)?.ok_or_else(|| fields.missing(field))
}

/// Whether the embedding is the head too; `absent` is the family's default.
pub(super) fn tied(fields: Fields<'_>, absent: bool) -> Result<bool, ConfigError> {
    flag_or(fields, "tie_word_embeddings", absent)
}

/// A flag that is `absent` where it is absent, and off where it is `null`.
pub(super) fn flag_or(fields: Fields<'_>, field: &str, absent: bool) -> Result<bool, ConfigError> {
    match fields.names(field) {
        true => flag(fields, field),
        false => Ok(absent),
    }
}

/// A flag, off where it is absent.
pub(super) fn flag(fields: Fields<'_>, field: &str) -> Result<bool, ConfigError> {
    Ok(fields.flag(field)?.unwrap_or(false))
}

/// How many layers there are.
pub(super) fn layers(fields: Fields<'_>, field: &str) -> Result<usize, ConfigError> {
    let layers = required(fields, field)?;
    if layers > LAYERS_MAX {
        return Err(fields.value(field, layers, format!("{LAYERS_MAX} at most")));
    }
    Ok(layers)
}

/// The function that a field names, in the words of `ACT2FN` of transformers.
pub(super) fn activation(
    fields: Fields<'_>,
    field: &str,
    absent: Activation,
) -> Result<Activation, ConfigError> {
    match fields.text(field)? {
        None => Ok(absent),
        // Names of one function.
        Some("silu" | "swish") => Ok(Activation::Silu),
        Some("gelu" | "gelu_python") => Ok(Activation::Gelu),
        Some("gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" | "gelu_python_tanh") => {
            Ok(Activation::GeluTanh)
        }
        Some("relu") => Ok(Activation::Relu),
        Some("relu2") => Ok(Activation::ReluSquared),
        Some(other) => {
            let supported = "silu, gelu, gelu_new, gelu_pytorch_tanh, relu, relu2";
            Err(fields.unsupported(field, other, supported))
        }
    }
}

/// Query heads, key and value heads, and features of a head.
///
/// Of the last two, `null` means what it meant when the first Llama had neither: as many as there are
/// query heads, and the features divided among them. Absent is the default of the family.
fn heads(family: &str, fields: Fields<'_>, defaults: &Defaults) -> Result<[usize; 3], ConfigError> {
    let (features, heads) = (
        required(fields, "hidden_size")?,
        required(fields, "num_attention_heads")?,
    );
    let absent = |field| !fields.names(field);
    let by_default = defaults
        .key_value_heads
        .filter(|_| absent("num_key_value_heads"));
    let key_value = fields.count("num_key_value_heads")?;
    let key_value = key_value.or(by_default).unwrap_or(heads);
    if heads % key_value != 0 {
        let found = match by_default {
            Some(_) => format!("absent, which is {key_value} for {family}"),
            None => key_value.to_string(),
        };
        return Err(fields.value(
            "num_key_value_heads",
            found,
            format!("a divisor of the {heads} of `num_attention_heads`"),
        ));
    }
    let by_default = defaults.head_features.filter(|_| absent("head_dim"));
    let head = match fields.count("head_dim")?.or(by_default) {
        Some(head) => head,
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

/// The window of a family that has one by default. Absent and `null` differ here: absent is the default of
/// transformers, `null` no window.
pub(super) fn window(fields: Fields<'_>) -> Result<Sees, ConfigError> {
    let window = match fields.names("sliding_window") {
        true => fields.count("sliding_window")?,
        false => Some(4096),
    };
    Ok(window.map_or(Sees::All, Sees::Window))
}

/// A window on some layers: those that `layer_types` lists or, without that list, those from `max_window_layers` on.
pub(super) fn windows_of_layers(fields: Fields<'_>, spec: &mut Spec) -> Result<(), ConfigError> {
    let window = match flag(fields, "use_sliding_window")? {
        true => window(fields)?,
        false => Sees::All,
    };
    let from = fields.index("max_window_layers")?.unwrap_or(28);
    let types = fields.texts("layer_types")?;
    let layers = spec.layers.len();
    if let Some(types) = types.as_ref().filter(|types| types.len() != layers) {
        return Err(fields.value(
            "layer_types",
            format!("a list of {}", types.len()),
            format!("one entry for each of the {layers} layers"),
        ));
    }
    for (layer, attention) in spec.attentions_mut() {
        let windowed = match types.as_ref().map(|types| types[layer]) {
            None => layer >= from,
            Some("full_attention") => false,
            Some("sliding_attention") => true,
            Some(other) => {
                let supported = "full_attention, sliding_attention";
                return Err(fields.unsupported("layer_types", other, supported));
            }
        };
        attention.sees = if windowed { window } else { Sees::All };
    }
    Ok(())
}

/// Base and scaling of the rotary frequencies.
fn rotary(
    fields: Fields<'_>,
    head_features: usize,
    positions: usize,
) -> Result<RotarySpec, ConfigError> {
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
    let rotary = RotarySpec {
        scaling,
        ..RotarySpec::new(head_features, theta)
    };
    if Rope::new(&rotary).is_some_and(|rope| !rope.reaches(positions)) {
        let scaling = &rotary.scaling;
        return Err(fields.value(
            "rope_theta",
            theta,
            format!("a base that with {scaling:?} gives finite angles at {positions} positions"),
        ));
    }
    Ok(rotary)
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
