//! GPT-2: learned positions, matrices stored `[in, out]`, queries, keys and values in one of them; norms with means and
//! biases, MLPs without a gate.

use super::{common, family::Family};
use crate::model::{
    decoder::{
        AttentionSpec, EmbeddingSpec, FeedForwardSpec, HeadSpec, LLAMA, LayerSpec, MixerSpec,
        MlpSpec, Names, Part, Projections, Spec,
    },
    error::ConfigError,
    fields::Fields,
    layers::{Activation, NormSpec},
};

pub(super) static FAMILY: Family = Family::new("gpt2", read).verified(&["gpt2_f32"]);

/// The same under another name.
pub(super) static GPT_SW3: Family = Family::new("gpt-sw3", read).alias_of("gpt2");

static NAMES: Names = Names {
    name: "gpt2",
    body: "transformer.",
    layers: "h",
    other: &[
        (Part::Embedding, "wte"),
        (Part::Positions, "wpe"),
        (Part::AttentionNorm, "ln_1"),
        (Part::Qkv, "attn.c_attn"),
        (Part::O, "attn.c_proj"),
        (Part::MlpNorm, "ln_2"),
        (Part::Up, "mlp.c_fc"),
        (Part::Down, "mlp.c_proj"),
        (Part::Norm, "ln_f"),
    ],
    leftovers: &[".attn.bias", ".attn.masked_bias"],
    ..LLAMA
};

fn read(family: &'static str, fields: Fields<'_>) -> Result<Spec, ConfigError> {
    if common::flag(fields, "add_cross_attention")? {
        return Err(fields.unsupported("add_cross_attention", true, "models without an encoder"));
    }
    let features = either(fields, "n_embd", "hidden_size")?;
    let heads = either(fields, "n_head", "num_attention_heads")?;
    if features % heads != 0 {
        let expected = format!("a multiple of the {heads} of `n_head`");
        return Err(fields.value("n_embd", features, expected));
    }
    let inner = fields.count("n_inner")?.unwrap_or(4 * features);
    let activation = common::activation(fields, "activation_function", Activation::GeluTanh)?;
    let norm = NormSpec::layer(fields.positive("layer_norm_epsilon")?.unwrap_or(1e-5), true);

    let mut attention = AttentionSpec::new(heads, heads, features / heads, None);
    attention.projections = Projections::Blocks;
    attention.qkv_bias = true;
    attention.o_bias = true;
    if !fields.flag_or("scale_attn_weights", true)? {
        attention.scale = 1.0;
    }
    let mlp = FeedForwardSpec::Mlp(MlpSpec::plain(inner, activation, true));
    let layer = LayerSpec::new(MixerSpec::Attention(attention), mlp, norm);
    let field = named(fields, "n_layer", "num_hidden_layers");
    let mut spec = Spec {
        family,
        vocabulary: common::required(fields, "vocab_size")?,
        vocabulary_rows: None,
        features,
        positions: either(fields, "n_positions", "max_position_embeddings")?,
        embedding: EmbeddingSpec {
            learned_positions: true,
            ..EmbeddingSpec::default()
        },
        layers: vec![layer; common::layers(fields, field)?],
        norm,
        head: HeadSpec::tied(common::tied(fields, true)?),
        transposed: true,
        predicts_further: false,
        names: &NAMES,
        prefixes: NAMES.prefixes(),
    };
    if common::flag(fields, "scale_attn_by_inverse_layer_idx")? {
        for (layer, attention) in spec.attentions_mut() {
            attention.scale /= (layer + 1) as f64;
        }
    }
    Ok(spec)
}

/// A whole number under the family's own name, or under the name that other families have for it.
fn either(fields: Fields<'_>, own: &str, other: &str) -> Result<usize, ConfigError> {
    common::required(fields, named(fields, own, other))
}

/// The name of the two that is there; the family's own where neither is.
fn named<'n>(fields: Fields<'_>, own: &'n str, other: &'n str) -> &'n str {
    match (fields.get(own), fields.get(other)) {
        (None, Some(_)) => other,
        _ => own,
    }
}
