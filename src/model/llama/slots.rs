//! The one table of names: which tensor of the checkpoint goes where.
//!
//! ```text
//! model.embed_tokens               [vocabulary, features]
//! model.layers.{i}.
//!   input_layernorm                [features]
//!   self_attn.q_proj               [query heads · head, features]
//!   self_attn.k_proj .v_proj       [key heads · head, features]
//!   self_attn.q_norm .k_norm       [head]                          Qwen 3
//!   self_attn.o_proj               [features, query heads · head]
//!   post_attention_layernorm       [features]
//!   mlp.gate_proj .up_proj         [mlp features, features]
//!   mlp.down_proj                  [features, mlp features]
//! model.norm                       [features]
//! lm_head                          [vocabulary, features]          unless tied
//! ```
//!
//! Every name ends in `.weight`; a bias has the same name ending in `.bias`.

use super::config::LlamaConfig;
use crate::model::{
    link::Link,
    slot::{Role, Slot},
};

/// Rows by token.
pub(super) const EMBEDDING: &str = "model.embed_tokens";
/// The norm after the last layer.
pub(super) const NORM: &str = "model.norm";
/// The projection to logits.
pub(super) const HEAD: &str = "lm_head";

/// A module inside a layer.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part {
    AttentionNorm,
    Q,
    K,
    V,
    QNorm,
    KNorm,
    O,
    MlpNorm,
    Gate,
    Up,
    Down,
}

impl Part {
    /// Its path in the checkpoint, without `.weight`.
    pub(super) fn path(self, layer: usize) -> String {
        let part = match self {
            Self::AttentionNorm => "input_layernorm",
            Self::Q => "self_attn.q_proj",
            Self::K => "self_attn.k_proj",
            Self::V => "self_attn.v_proj",
            Self::QNorm => "self_attn.q_norm",
            Self::KNorm => "self_attn.k_norm",
            Self::O => "self_attn.o_proj",
            Self::MlpNorm => "post_attention_layernorm",
            Self::Gate => "mlp.gate_proj",
            Self::Up => "mlp.up_proj",
            Self::Down => "mlp.down_proj",
        };
        format!("model.layers.{layer}.{part}")
    }
}

/// Every tensor of a checkpoint, in the order a token meets them.
pub(super) fn slots(config: &LlamaConfig) -> Vec<Slot> {
    let table = |path: &str, role| {
        let shape = [config.vocabulary, config.features];
        Slot::new(format!("{path}.weight"), shape, role)
    };
    let mut slots = vec![table(EMBEDDING, Role::Embedding)];
    for layer in 0..config.windows.len() {
        push_layer(&mut slots, config, layer);
    }
    slots.push(Slot::norm(format!("{NORM}.weight"), config.features));
    if !config.tied {
        slots.push(table(HEAD, Role::Head));
    }
    slots
}

fn push_layer(slots: &mut Vec<Slot>, config: &LlamaConfig, layer: usize) {
    let (f, m, d) = (config.features, config.mlp_features, config.head_features);
    let (q, kv) = (config.heads * d, config.key_value_heads * d);
    let norm = |part: Part, len| [Slot::norm(format!("{}.weight", part.path(layer)), len)];
    let linear = |part: Part, out, r#in| {
        let path = part.path(layer);
        let weight = Slot::linear(format!("{path}.weight"), out, r#in);
        let bias = has_bias(config, part).then(|| Slot::bias(format!("{path}.bias"), out));
        [weight].into_iter().chain(bias)
    };

    slots.extend(norm(Part::AttentionNorm, f));
    slots.extend(linear(Part::Q, q, f));
    slots.extend(linear(Part::K, kv, f));
    slots.extend(linear(Part::V, kv, f));
    if config.qk_norm {
        slots.extend(norm(Part::QNorm, d));
        slots.extend(norm(Part::KNorm, d));
    }
    slots.extend(linear(Part::O, f, q));
    slots.extend(norm(Part::MlpNorm, f));
    slots.extend(linear(Part::Gate, m, f));
    slots.extend(linear(Part::Up, m, f));
    slots.extend(linear(Part::Down, f, m));
}

fn has_bias(config: &LlamaConfig, part: Part) -> bool {
    match part {
        Part::Q | Part::K | Part::V => config.qkv_bias,
        Part::O => config.o_bias,
        Part::Gate | Part::Up | Part::Down => config.mlp_bias,
        Part::AttentionNorm | Part::QNorm | Part::KNorm | Part::MlpNorm => false,
    }
}

/// What makes the input of every matrix inside a layer: a norm, the values that attention mixes, and the half of the
/// MLP that its gate lets through.
pub(super) fn links(config: &LlamaConfig) -> Vec<Link> {
    let shared = config.heads / config.key_value_heads;
    let layers = 0..config.windows.len();
    let of_layer = |layer| {
        let weight = |part: Part| format!("{}.weight", part.path(layer));
        let rows = |part: Part| {
            let bias = has_bias(config, part).then(|| format!("{}.bias", part.path(layer)));
            [weight(part)].into_iter().chain(bias)
        };
        let norm =
            |norm, to: &[Part]| Link::new([weight(norm)], to.iter().map(|part| weight(*part)));
        [
            norm(Part::AttentionNorm, &[Part::Q, Part::K, Part::V]),
            Link::new(rows(Part::V), [weight(Part::O)]).repeated(config.head_features, shared),
            norm(Part::MlpNorm, &[Part::Gate, Part::Up]),
            Link::new(rows(Part::Up), [weight(Part::Down)]),
        ]
    };
    layers.flat_map(of_layer).collect()
}

/// Tensors that older files carry and no model of the family reads.
pub(super) fn leaves_out(config: &LlamaConfig, tensor: &str) -> bool {
    // A table that is computed, and the second copy of a tied head.
    tensor.ends_with(".rotary_emb.inv_freq")
        || (config.tied && tensor.strip_prefix(HEAD) == Some(".weight"))
}
