//! How checkpoints name the tensors of a decoder.
//!
//! ```text
//! model.embed_tokens               [vocabulary, features]
//! model.layers.{i}.
//!   input_layernorm                [features]
//!   self_attn.q_proj               [query heads · head, features]
//!   self_attn.k_proj .v_proj       [key heads · head, features]
//!   self_attn.q_norm .k_norm       [head]                          some
//!   self_attn.o_proj               [features, query heads · head]
//!   post_attention_layernorm       [features]
//!   mlp.gate_proj .up_proj         [mlp features, features]
//!   mlp.down_proj                  [features, mlp features]
//! model.norm                       [features]
//! lm_head                          [vocabulary, features]          unless tied
//! ```
//!
//! Every name ends in `.weight`; a bias has the same name ending in `.bias`. These are the names of Llama, which most
//! families have; a family that differs lists what differs.

/// The names of a project or a family.
#[derive(Debug, PartialEq, Eq)]
pub struct Names {
    /// What it is called, for people.
    pub name: &'static str,
    /// What comes before the number of a layer.
    pub layers: &'static str,
    /// Paths that are not those of Llama.
    pub other: &'static [(Part, &'static str)],
}

/// Those of Llama.
pub static LLAMA: Names = Names {
    name: "llama",
    layers: "model.layers",
    other: &[],
};

/// A module of a decoder that has weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Part {
    /// Rows by token.
    Embedding,
    /// Rows by position.
    Positions,
    /// Before attention.
    AttentionNorm,
    /// To queries.
    Q,
    /// To keys.
    K,
    /// To values.
    V,
    /// To all three.
    Qkv,
    /// Of queries.
    QNorm,
    /// Of keys.
    KNorm,
    /// Out of attention.
    O,
    /// After attention.
    AttentionNormAfter,
    /// Before the MLP.
    MlpNorm,
    /// To what lets through.
    Gate,
    /// To what is let through.
    Up,
    /// To both.
    GateUp,
    /// Out of the MLP.
    Down,
    /// After the MLP.
    MlpNormAfter,
    /// After the last layer.
    Norm,
    /// To logits.
    Head,
}

impl Part {
    /// Its path in a file of Llama: in the layer, or from the root for what is in no layer.
    const fn path(self) -> &'static str {
        match self {
            Self::Embedding => "model.embed_tokens",
            Self::Positions => "model.embed_positions",
            Self::AttentionNorm => "input_layernorm",
            Self::Q => "self_attn.q_proj",
            Self::K => "self_attn.k_proj",
            Self::V => "self_attn.v_proj",
            Self::Qkv => "self_attn.qkv_proj",
            Self::QNorm => "self_attn.q_norm",
            Self::KNorm => "self_attn.k_norm",
            Self::O => "self_attn.o_proj",
            Self::AttentionNormAfter => "post_attention_layernorm",
            Self::MlpNorm => "post_attention_layernorm",
            Self::Gate => "mlp.gate_proj",
            Self::Up => "mlp.up_proj",
            Self::GateUp => "mlp.gate_up_proj",
            Self::Down => "mlp.down_proj",
            Self::MlpNormAfter => "post_feedforward_layernorm",
            Self::Norm => "model.norm",
            Self::Head => "lm_head",
        }
    }
}

impl Names {
    /// The path of a module, without `.weight`; `layer` is the number of the layer that it is in.
    pub fn path(&self, layer: Option<usize>, part: Part) -> String {
        let other = self.other.iter().find(|(other, _)| *other == part);
        let path = other.map_or(part.path(), |(_, path)| path);
        match layer {
            Some(layer) => format!("{}.{layer}.{path}", self.layers),
            None => path.to_owned(),
        }
    }
}
