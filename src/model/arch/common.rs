//! Fields of `config.json` that most families have.
//!
//! Defaults for an absent field are those of transformers 5.23 for the family. Vocabulary, features, layers,
//! query heads and positions have none for most: every checkpoint has them, and a guess would only move the
//! error. Nobody asks for the type of the weights: each tensor has its own.

use super::rotary::{self, RotaryDefaults, rotary};
use crate::model::{
    decoder::{
        AttentionSpec, EmbeddingSpec, FeedForwardSpec, HeadSpec, LLAMA, LayerSpec, MixerSpec,
        MlpSpec, Sees, Spec,
    },
    error::ConfigError,
    fields::{COUNT_MAX, Fields},
    layers::{Activation, NormSpec, RopeScaling},
};

/// More layers than any model has; a number above it is a broken file.
const LAYERS_MAX: usize = 1 << 12;

/// More features than any head has.
const HEAD_FEATURES_MAX: usize = 1 << 13;

/// The values of a family for fields that its files may leave out.
pub(super) struct Defaults {
    /// Of `vocab_size`; `None`: it has to be there.
    pub(super) vocabulary: Option<usize>,
    /// Of `max_position_embeddings`; `None`: it has to be there.
    pub(super) positions: Option<usize>,
    /// Of `num_attention_heads`; `None`: it has to be there.
    pub(super) heads: Option<usize>,
    /// Of `num_key_value_heads`; `None`: the number of query heads.
    pub(super) key_value_heads: Option<usize>,
    /// Of `head_dim`; `None`: the features of the model, divided among the query heads.
    pub(super) head_features: Option<usize>,
    /// Of `rms_norm_eps`.
    pub(super) norm_eps: f64,
    /// Of `tie_word_embeddings`.
    pub(super) tied: bool,
    /// The field that names the activation, and what it is where the field is absent.
    pub(super) activation: (&'static str, Activation),
    /// Of the rotation.
    pub(super) rotary: RotaryDefaults,
}

impl Defaults {
    /// Those of Llama.
    pub(super) const LLAMA: Self = Self {
        vocabulary: None,
        positions: None,
        heads: None,
        key_value_heads: None,
        head_features: None,
        norm_eps: 1e-6,
        tied: false,
        activation: ("hidden_act", Activation::Silu),
        rotary: RotaryDefaults::LLAMA,
    };
}

/// A model like Llama: every layer alike, gated MLPs, norms before each half, no biases, everything before a token seen.
pub(super) fn spec(
    family: &'static str,
    fields: Fields<'_>,
    defaults: &Defaults,
) -> Result<Spec, ConfigError> {
    let (field, absent) = defaults.activation;
    let activation = activation(fields, field, absent)?;
    let mlp = MlpSpec::gated(required(fields, "intermediate_size")?, activation);
    let eps = fields.positive("rms_norm_eps")?;
    let norm = NormSpec::rms(eps.unwrap_or(defaults.norm_eps));
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
    let positions = or_default(fields, "max_position_embeddings", defaults.positions)?;
    let rotary = rotary(fields, head_features, positions, &defaults.rotary)?;
    let attention = AttentionSpec::new(heads, key_value_heads, head_features, Some(rotary));
    let layer = LayerSpec::new(
        MixerSpec::Attention(attention),
        FeedForwardSpec::Mlp(mlp),
        norm,
    );
    Ok(Spec {
        family,
        vocabulary: or_default(fields, "vocab_size", defaults.vocabulary)?,
        vocabulary_rows: None,
        features: required(fields, "hidden_size")?,
        positions,
        embedding: EmbeddingSpec::default(),
        layers: vec![layer; layers(fields, "num_hidden_layers")?],
        norm,
        head: HeadSpec::tied(tied(fields, defaults.tied)?),
        transposed: false,
        predicts_further: false,
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

/// A whole number that has to be there unless there is a default.
fn or_default(
    fields: Fields<'_>,
    field: &str,
    default: Option<usize>,
) -> Result<usize, ConfigError> {
    match (fields.count(field)?, default) {
        (Some(count), _) | (None, Some(count)) => Ok(count),
        (None, None) => Err(fields.missing(field)),
    }
}

/// Whether the embedding is the head too; `absent` is the family's default.
pub(super) fn tied(fields: Fields<'_>, absent: bool) -> Result<bool, ConfigError> {
    fields.flag_or("tie_word_embeddings", absent)
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

/// Positions that a text may have. Where the base grows with the text, or a factor stretches the positions of the first
/// training, files have the number of those.
pub(super) fn reach(fields: Fields<'_>, spec: &Spec) -> Result<usize, ConfigError> {
    let rotaries = spec.layers.iter().filter_map(LayerSpec::rotary);
    let stretched = rotaries.map(|rotary| match rotary.scaling {
        RopeScaling::Dynamic {
            factor,
            original_positions,
        }
        | RopeScaling::Yarn {
            factor,
            original_positions,
            ..
        } => (f64::from(factor) * original_positions as f64) as usize,
        _ => 0,
    });
    let stretched = stretched.max().unwrap_or(0);
    match stretched <= COUNT_MAX as usize {
        true => Ok(spec.positions.max(stretched)),
        false => {
            let expected = format!("a number that makes at most {COUNT_MAX} positions");
            let rope = rotary::place(fields).ok().flatten().unwrap_or(fields);
            Err(rope.value("factor", format!("one that makes {stretched}"), expected))
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
        or_default(fields, "num_attention_heads", defaults.heads)?,
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
    Ok([heads, key_value, turned(fields, "head_dim", head)?])
}

/// Features of a head that may be rotated, from a field or what stands for it.
pub(super) fn turned(
    fields: Fields<'_>,
    field: &str,
    features: usize,
) -> Result<usize, ConfigError> {
    match features.is_multiple_of(2) && features <= HEAD_FEATURES_MAX {
        true => Ok(features),
        false => Err(fields.value(
            field,
            features,
            format!("an even number, to be rotated in pairs, and at most {HEAD_FEATURES_MAX}"),
        )),
    }
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

/// Layers with a window turn in their own way.
pub(super) fn rotary_near(
    fields: Fields<'_>,
    spec: &mut Spec,
    defaults: &RotaryDefaults,
) -> Result<(), ConfigError> {
    let positions = spec.positions;
    for (_, attention) in spec.attentions_mut() {
        if attention.sees != Sees::All {
            let rotary = rotary(fields, attention.head_features, positions, defaults)?;
            attention.rotary = Some(rotary);
        }
    }
    Ok(())
}

/// A window on some layers: those that `layer_types` lists or, without that list, those from `max_window_layers` on.
pub(super) fn windows_of_layers(fields: Fields<'_>, spec: &mut Spec) -> Result<(), ConfigError> {
    let window = match flag(fields, "use_sliding_window")? {
        true => window(fields)?,
        false => Sees::All,
    };
    let from = fields.index("max_window_layers")?.unwrap_or(28);
    windows(fields, spec, window, |layer| layer >= from)
}

/// A window on the layers that `layer_types` lists or, without that list, on those that `absent` says.
pub(super) fn windows(
    fields: Fields<'_>,
    spec: &mut Spec,
    window: Sees,
    absent: impl Fn(usize) -> bool,
) -> Result<(), ConfigError> {
    let types = layer_types(fields, spec.layers.len())?;
    for (layer, attention) in spec.attentions_mut() {
        let windowed = match types.as_ref().map(|types| types[layer]) {
            None => absent(layer),
            Some("full_attention") => false,
            Some("sliding_attention") if window == Sees::All => {
                let found = format!("sliding_attention for layer {layer}");
                let expected = "full_attention, as the file has no window";
                return Err(fields.value("layer_types", found, expected));
            }
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

/// The kind of each layer, where `layer_types` lists them.
pub(super) fn layer_types<'a>(
    fields: Fields<'a>,
    layers: usize,
) -> Result<Option<Vec<&'a str>>, ConfigError> {
    const FIELD: &str = "layer_types";
    match fields.texts(FIELD)? {
        Some(types) if types.len() != layers => {
            Err(not_for_each_layer(fields, FIELD, types.len(), layers))
        }
        types => Ok(types),
    }
}

/// Whether the heads of each layer turn: the name of the field says the opposite of its numbers. Without the list, all but
/// every `no_rope_layer_interval`th do.
pub(super) fn turning_layers(fields: Fields<'_>, layers: usize) -> Result<Vec<bool>, ConfigError> {
    const FIELD: &str = "no_rope_layers";
    let every = fields.count("no_rope_layer_interval")?.unwrap_or(4);
    match fields.indices(FIELD)?.filter(|list| !list.is_empty()) {
        None => Ok((1..=layers).map(|layer| layer % every != 0).collect()),
        Some(list) if list.len() >= layers => Ok(list.iter().map(|turns| *turns != 0).collect()),
        Some(list) => Err(not_for_each_layer(fields, FIELD, list.len(), layers)),
    }
}

/// The error of a list with another number of entries than there are layers.
fn not_for_each_layer(fields: Fields<'_>, field: &str, found: usize, layers: usize) -> ConfigError {
    let expected = format!("one entry for each of the {layers} layers");
    fields.value(field, format!("a list of {found}"), expected)
}
