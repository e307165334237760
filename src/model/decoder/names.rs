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
//! Experts, which some have in place of an MLP:
//!
//! ```text
//!   mlp.gate                       [experts, features]             the router
//!   mlp.experts.{e}.gate_proj …    [expert features, features]     as those of an MLP
//!   mlp.shared_expert.gate_proj …                                  an MLP beside them
//! ```
//!
//! A checkpoint that has the matrices of all experts in one tensor calls it `mlp.experts.gate_up_proj`.
//!
//! Every name of a module ends in `.weight`; a bias has the same name ending in `.bias`. These are the names of Llama, which most
//! families have; a family that differs lists what differs.

use serde::Serialize;

use crate::model::stacks::SWITCH;

/// The names of a project or a family.
#[derive(Debug, PartialEq, Eq)]
pub struct Names {
    /// What they are called, for people.
    pub name: &'static str,
    /// The beginning of every name but the head's: `model.`
    pub body: &'static str,
    /// What comes before the number of a layer.
    pub layers: &'static str,
    /// Paths that are not those of Llama.
    pub other: &'static [(Part, &'static str)],
    /// The module that mlx-lm has the stacks of experts in, beside `experts`: `mlp.switch_mlp.gate_proj`.
    pub switch: &'static str,
    /// Ends of the names of tensors that files have and no decoder reads: tables that are computed.
    pub leftovers: &'static [&'static str],
    /// Beginnings of the names of tensors that are in a file beside the model: what predicts further tokens, what reads
    /// pictures.
    pub beside: &'static [&'static str],
}

/// The beginning of the names of the text model in a multimodal one, as transformers 5 has it.
pub(crate) const INSIDE: &str = "model.language_model.";

/// Those of Llama.
pub static LLAMA: Names = Names {
    name: "llama",
    body: "model.",
    layers: "layers",
    other: &[],
    switch: SWITCH,
    leftovers: &[".rotary_emb.inv_freq"],
    beside: &[],
};

/// How the names of one file begin.
///
/// | `body` | `head` | file |
/// |---|---|---|
/// | `model.` | | a model with a head |
/// | | | the same model, saved without its head |
/// | `model.language_model.` | | the text model of a multimodal one |
/// | `language_model.model.` | `language_model.` | the same from transformers 4 |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Prefixes {
    /// Of every name but the head's.
    pub body: &'static str,
    /// Of the head's name.
    pub head: &'static str,
}

impl Prefixes {
    /// Whether they are those of the text model of a multimodal one.
    pub(super) fn inside(self) -> bool {
        self.body.contains("language_model.")
    }

    /// Whether a tensor of this name is beside the text model of a multimodal one: it reads pictures or sounds.
    pub(super) fn is_beside(self, tensor: &str) -> bool {
        let head = format!("{}{}", self.head, Part::Head.path());
        self.inside() && !tensor.starts_with(self.body) && !tensor.starts_with(&head)
    }
}

/// A module of a decoder that has weights, or a tensor that has no module.
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
    /// One score more for each head: the name of a tensor.
    Sinks,
    /// Out of attention.
    O,
    /// To the small row of queries.
    QueryA,
    /// Of the small row of queries.
    QueryANorm,
    /// From the small row of queries.
    QueryB,
    /// To the small row of keys and values, and to the rotated key.
    KeyValueA,
    /// Of the small row of keys and values.
    KeyValueANorm,
    /// From the small row of keys and values.
    KeyValueB,
    /// To queries, keys and values of a delta layer.
    DeltaQkv,
    /// To its gates.
    DeltaGate,
    /// To its strengths.
    DeltaStrength,
    /// To its fades.
    DeltaFade,
    /// To queries, keys, values and gates.
    DeltaQkvGate,
    /// To strengths and fades.
    DeltaStrengthFade,
    /// The factors of its convolution; a tensor.
    DeltaConvolution,
    /// Is added to what fades are made of; a tensor.
    DeltaFadeBias,
    /// Logarithms of the factors of fades; a tensor.
    DeltaFadeFactor,
    /// Of what comes out of a delta layer.
    DeltaNorm,
    /// Out of a delta layer.
    DeltaOut,
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
    /// After an MLP beside experts, before both are added.
    MlpNormBeside,
    /// Before experts beside an MLP.
    ExpertsNorm,
    /// After experts beside an MLP, before both are added.
    ExpertsNormAfter,
    /// What the normalised input of a router is multiplied by; a tensor.
    RouterInputScale,
    /// What the scores of experts are multiplied by; a tensor.
    RouterScales,
    /// Rows of small embeddings by token.
    PerLayerTable,
    /// From the embedding to small embeddings.
    PerLayerModelProjection,
    /// Of small embeddings made from the embedding.
    PerLayerModelNorm,
    /// To what a small embedding is multiplied by.
    PerLayerGate,
    /// From a small embedding to features of the model.
    PerLayerProjection,
    /// Of what a small embedding adds.
    PerLayerNorm,
    /// What the output of a layer is multiplied by; a tensor.
    LayerScalar,
    /// To the scores of experts.
    Router,
    /// What is added to scores before experts are chosen: the name of a tensor.
    RouterCorrection,
    /// As [`Gate`](Self::Gate), of an expert; `{}` is its number.
    ExpertGate,
    /// As [`Up`](Self::Up), of an expert.
    ExpertUp,
    /// As [`GateUp`](Self::GateUp), of an expert.
    ExpertGateUp,
    /// As [`Down`](Self::Down), of an expert.
    ExpertDown,
    /// As [`Gate`](Self::Gate), of the MLP beside the experts.
    SharedGate,
    /// As [`Up`](Self::Up), of the MLP beside the experts.
    SharedUp,
    /// As [`GateUp`](Self::GateUp), of the MLP beside the experts.
    SharedGateUp,
    /// As [`Down`](Self::Down), of the MLP beside the experts.
    SharedDown,
    /// To what lets through the output of the MLP beside the experts.
    SharedMix,
    /// After the last layer.
    Norm,
    /// To logits.
    Head,
}

impl Part {
    /// Its path in a file of Llama: in the layer, or after the prefix for what is in no layer.
    const fn path(self) -> &'static str {
        match self {
            Self::Embedding => "embed_tokens",
            Self::Positions => "embed_positions",
            Self::AttentionNorm => "input_layernorm",
            Self::Q => "self_attn.q_proj",
            Self::K => "self_attn.k_proj",
            Self::V => "self_attn.v_proj",
            Self::Qkv => "self_attn.qkv_proj",
            Self::QNorm => "self_attn.q_norm",
            Self::KNorm => "self_attn.k_norm",
            Self::Sinks => "self_attn.sinks",
            Self::O => "self_attn.o_proj",
            Self::QueryA => "self_attn.q_a_proj",
            Self::QueryANorm => "self_attn.q_a_layernorm",
            Self::QueryB => "self_attn.q_b_proj",
            Self::KeyValueA => "self_attn.kv_a_proj_with_mqa",
            Self::KeyValueANorm => "self_attn.kv_a_layernorm",
            Self::KeyValueB => "self_attn.kv_b_proj",
            Self::DeltaQkv => "linear_attn.in_proj_qkv",
            Self::DeltaGate => "linear_attn.in_proj_z",
            Self::DeltaStrength => "linear_attn.in_proj_b",
            Self::DeltaFade => "linear_attn.in_proj_a",
            Self::DeltaQkvGate => "linear_attn.in_proj_qkvz",
            Self::DeltaStrengthFade => "linear_attn.in_proj_ba",
            Self::DeltaConvolution => "linear_attn.conv1d.weight",
            Self::DeltaFadeBias => "linear_attn.dt_bias",
            Self::DeltaFadeFactor => "linear_attn.A_log",
            Self::DeltaNorm => "linear_attn.norm",
            Self::DeltaOut => "linear_attn.out_proj",
            Self::AttentionNormAfter => "post_attention_layernorm",
            Self::MlpNorm => "post_attention_layernorm",
            Self::Gate => "mlp.gate_proj",
            Self::Up => "mlp.up_proj",
            Self::GateUp => "mlp.gate_up_proj",
            Self::Down => "mlp.down_proj",
            Self::MlpNormAfter => "post_feedforward_layernorm",
            Self::MlpNormBeside => "post_feedforward_layernorm_1",
            Self::ExpertsNorm => "pre_feedforward_layernorm_2",
            Self::ExpertsNormAfter => "post_feedforward_layernorm_2",
            Self::RouterInputScale => "router.scale",
            Self::RouterScales => "router.per_expert_scale",
            Self::PerLayerTable => "embed_tokens_per_layer",
            Self::PerLayerModelProjection => "per_layer_model_projection",
            Self::PerLayerModelNorm => "per_layer_projection_norm",
            Self::PerLayerGate => "per_layer_input_gate",
            Self::PerLayerProjection => "per_layer_projection",
            Self::PerLayerNorm => "post_per_layer_input_norm",
            Self::LayerScalar => "layer_scalar",
            Self::Router => "mlp.gate",
            Self::RouterCorrection => "mlp.gate.e_score_correction_bias",
            Self::ExpertGate => "mlp.experts.{}.gate_proj",
            Self::ExpertUp => "mlp.experts.{}.up_proj",
            Self::ExpertGateUp => "mlp.experts.{}.gate_up_proj",
            Self::ExpertDown => "mlp.experts.{}.down_proj",
            Self::SharedGate => "mlp.shared_expert.gate_proj",
            Self::SharedUp => "mlp.shared_expert.up_proj",
            Self::SharedGateUp => "mlp.shared_expert.gate_up_proj",
            Self::SharedDown => "mlp.shared_expert.down_proj",
            Self::SharedMix => "mlp.shared_expert_gate",
            Self::Norm => "norm",
            Self::Head => "lm_head",
        }
    }
}

/// A matrix of an MLP.
#[derive(Debug, Clone, Copy)]
pub(super) enum MlpPart {
    Gate,
    Up,
    GateUp,
    Down,
}

impl MlpPart {
    pub(super) const fn of_layer(self) -> Part {
        match self {
            Self::Gate => Part::Gate,
            Self::Up => Part::Up,
            Self::GateUp => Part::GateUp,
            Self::Down => Part::Down,
        }
    }

    pub(super) const fn of_expert(self) -> Part {
        match self {
            Self::Gate => Part::ExpertGate,
            Self::Up => Part::ExpertUp,
            Self::GateUp => Part::ExpertGateUp,
            Self::Down => Part::ExpertDown,
        }
    }

    pub(super) const fn of_shared(self) -> Part {
        match self {
            Self::Gate => Part::SharedGate,
            Self::Up => Part::SharedUp,
            Self::GateUp => Part::SharedGateUp,
            Self::Down => Part::SharedDown,
        }
    }
}

impl Names {
    /// How the names of most files begin.
    pub const fn prefixes(&self) -> Prefixes {
        let body = self.body;
        Prefixes { body, head: "" }
    }

    /// How the names of any file may begin, the most usual first.
    pub(super) fn all_prefixes(&self) -> [Prefixes; 4] {
        let prefixes = |body, head| Prefixes { body, head };
        [
            self.prefixes(),
            prefixes("", ""),
            prefixes(INSIDE, ""),
            prefixes("language_model.model.", "language_model."),
        ]
    }

    /// The name that transformers 5 has for a module that is no head.
    pub(super) fn module(&self, prefixes: Prefixes, path: &str) -> String {
        let inside = prefixes.inside();
        let body = if inside { INSIDE } else { self.body };
        match path.strip_prefix(prefixes.body) {
            Some(rest) => format!("{body}{}", rest.replace(".block_sparse_moe.", ".mlp.")),
            // What reads pictures lies beside the text model.
            None if inside && !path.starts_with("model.") => {
                let path = path.replace("vision_tower.vision_model.", "vision_tower.");
                format!("model.{path}")
            }
            None => path.to_owned(),
        }
    }

    /// The path of a module, without `.weight`, or of a tensor; `layer` is the number of the layer that it is in.
    pub fn path(&self, prefixes: Prefixes, layer: Option<usize>, part: Part) -> String {
        let other = self.other.iter().find(|(other, _)| *other == part);
        let path = other.map_or(part.path(), |(_, path)| path);
        match (layer, part) {
            (Some(layer), _) => format!("{}{}.{layer}.{path}", prefixes.body, self.layers),
            (None, Part::Head) => format!("{}{path}", prefixes.head),
            (None, _) => format!("{}{path}", prefixes.body),
        }
    }
}
