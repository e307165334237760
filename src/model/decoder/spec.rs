//! The words for everything that decoders do differently, as plain data.
//!
//! A family (`model/arch`) turns a `config.json` into a [`Spec`]; names, shapes, links and the module follow from the
//! [`Spec`] alone. It has words for more than the forward pass computes today; `check.rs` refuses those by name.

use core::ops::Range;

use firebox_kernels::format::Gguf;
use serde::{Serialize, Serializer};

use super::names::{Names, Part, Prefixes};
use crate::model::{
    TIED_HEAD,
    layers::{Activation, Clamp, NormOver, NormSpec, QueryGrowth, RotarySpec, RouterSpec, Sees},
    stacks::Stacks,
};

/// A decoder: tokens in, logits out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Spec {
    /// `model_type` of the `config.json` that it was read from.
    pub family: &'static str,
    /// Rows of the embedding, and logits.
    pub vocabulary: usize,
    /// Those of them that this module has, where several ranks share the vocabulary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vocabulary_rows: Option<Range<usize>>,
    /// Features between layers.
    pub features: usize,
    /// Tokens in a context at most.
    pub positions: usize,
    /// What rows of the embedding become before the first layer.
    pub embedding: EmbeddingSpec,
    /// From the first to the last.
    pub layers: Vec<LayerSpec>,
    /// After the last layer.
    pub norm: NormSpec,
    /// From features to logits.
    pub head: HeadSpec,
    /// Matrices of layers are stored `[in, out]` (GPT-2).
    pub transposed: bool,
    /// Files have layers after the last one, which predict further tokens; the model does not read them.
    pub predicts_further: bool,
    /// How the checkpoint names its tensors.
    #[serde(serialize_with = "name_of_names")]
    pub names: &'static Names,
    /// How the names of the checkpoint at hand begin.
    pub prefixes: Prefixes,
}

fn name_of_names<S: Serializer>(names: &&'static Names, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(names.name)
}

/// What rows of the embedding become before the first layer.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct EmbeddingSpec {
    /// Rows are multiplied by it.
    pub multiplier: Option<f64>,
    /// A second table has a row for each position, which is added (GPT-2).
    pub learned_positions: bool,
    /// Each layer gets a second, small embedding of the token (Gemma 3n, Gemma 4).
    pub per_layer: Option<PerLayerSpec>,
    /// The file has the table under the name of the head alone, which is the same matrix.
    pub under_head: bool,
}

/// A small embedding of the token for each layer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PerLayerSpec {
    /// Rows of its table.
    pub vocabulary: usize,
    /// Its features.
    pub features: usize,
    /// The function of the gate that it is multiplied by.
    pub activation: Activation,
}

/// From features to logits.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HeadSpec {
    /// The embedding is the head too.
    pub tied: bool,
    /// A bias is added.
    pub bias: bool,
    /// Logits are multiplied by it.
    pub multiplier: Option<f64>,
    /// `c` bends logits `x` to `c·tanh(x/c)`.
    pub soft_cap: Option<f64>,
}

/// A layer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LayerSpec {
    /// The half that looks at other tokens.
    pub mixer: MixerSpec,
    /// The half that looks at each token alone.
    pub feed_forward: FeedForwardSpec,
    /// Where norms are.
    pub norms: NormPlaces,
    /// How they normalise.
    pub norm: NormSpec,
    /// What a half adds is multiplied by it.
    pub residual_multiplier: Option<f64>,
    /// What comes out of the layer is multiplied by a number that the checkpoint has (Gemma 4).
    pub scalar: bool,
}

/// Where a layer normalises; `f` is one of its halves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NormPlaces {
    /// `x + f(norm(x))`: Llama.
    Before,
    /// `x + norm(f(x))`: OLMo 2.
    After,
    /// `x + norm(f(norm(x)))`: Gemma 2.
    Around,
    /// `x + attention(norm(x)) + mlp(norm(x))`, one norm for both halves: Command R.
    Parallel,
    /// The same with a norm for each half: GPT-NeoX.
    ParallelApart,
}

/// The half of a layer that looks at other tokens.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MixerSpec {
    /// Attention whose query heads share keys and values in groups.
    Attention(AttentionSpec),
    /// Attention whose keys and values are unfolded from one small row a token (DeepSeek's MLA).
    Latent(LatentSpec),
    /// A state instead of keys and values, corrected by each token (gated delta rule).
    Delta(DeltaSpec),
}

/// Attention over groups of heads.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AttentionSpec {
    /// Query heads, a multiple of `key_value_heads`.
    pub heads: usize,
    /// Key and value heads.
    pub key_value_heads: usize,
    /// Features of a head.
    pub head_features: usize,
    /// How the matrices of queries, keys and values are stored.
    pub projections: Projections,
    /// Queries, keys and values have biases.
    pub qkv_bias: bool,
    /// The projection out of attention has a bias.
    pub o_bias: bool,
    /// Is multiplied with the product of a query and a key.
    pub scale: f64,
    /// `c` bends scores `s` to `c·tanh(s/c)`.
    pub soft_cap: Option<f64>,
    /// The tokens that a query sees.
    pub sees: Sees,
    /// What turns queries and keys; `None`: nothing (NoPE).
    pub rotary: Option<RotarySpec>,
    /// Queries and keys are normalised.
    pub query_key_norm: Option<QueryKeyNormSpec>,
    /// Values are normalised, without a scale (Gemma 4).
    pub value_norm: Option<NormSpec>,
    /// Queries grow with their position (Llama 4, Ministral 3).
    pub query_growth: Option<QueryGrowth>,
    /// Each head has one score more in its softmax, whose weight is dropped (gpt-oss).
    pub sinks: bool,
    /// What comes out of attention is multiplied with the sigmoid of a gate that `q_proj` makes (Qwen 3.5).
    pub gate: bool,
    /// Values are the keys before their norm (Gemma 4).
    pub values_are_keys: bool,
    /// The layer whose keys and values this layer uses instead of its own (Gemma 3n, Gemma 4).
    pub keys_of: Option<usize>,
}

/// How the matrices of queries, keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Projections {
    /// A matrix each.
    Apart,
    /// One matrix: all queries, all keys, all values (Phi-3, GPT-2).
    Blocks,
    /// One matrix: for each key head its queries, its key and its value (GPT-NeoX, Falcon).
    ByHead,
}

/// Queries and keys are normalised.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct QueryKeyNormSpec {
    /// How.
    pub norm: NormSpec,
    /// What it runs over.
    pub over: NormOver,
    /// After the rotation and not before it (Llama 4).
    pub after_rotary: bool,
    /// There is a scale (Llama 4: none).
    pub scaled: bool,
}

/// Attention whose keys and values are unfolded from one small row a token.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LatentSpec {
    /// Heads.
    pub heads: usize,
    /// Features that queries are made from; `None`: those of the model.
    pub query_rank: Option<usize>,
    /// Features that keys and values are made from.
    pub key_value_rank: usize,
    /// Features of a query and a key that are not rotated.
    pub plain_features: usize,
    /// Features of a value.
    pub value_features: usize,
    /// What turns the others, which all heads share.
    pub rotary: RotarySpec,
    /// Is multiplied with the product of a query and a key.
    pub scale: f64,
    /// Of the two small rows.
    pub norm: NormSpec,
    /// The projections to the small rows have biases.
    pub bias: bool,
}

/// A state instead of keys and values, corrected by each token.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DeltaSpec {
    /// Heads of queries and keys.
    pub key_heads: usize,
    /// Heads of values, a multiple of `key_heads`.
    pub value_heads: usize,
    /// Features of a query and a key.
    pub key_features: usize,
    /// Features of a value.
    pub value_features: usize,
    /// Tokens that the convolution before it sees.
    pub kernel: usize,
    /// Of what comes out, before its gate.
    pub norm: NormSpec,
    /// The projections are two matrices ordered by key head (Qwen 3 Next), not four.
    pub fused: bool,
}

/// The half of a layer that looks at each token alone.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FeedForwardSpec {
    /// One MLP.
    Mlp(MlpSpec),
    /// Some of many.
    Experts(ExpertsSpec),
    /// Both, side by side, with norms for each (Gemma 4).
    Both {
        /// The MLP.
        mlp: MlpSpec,
        /// The experts.
        experts: ExpertsSpec,
    },
}

/// An MLP.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MlpSpec {
    /// Features inside.
    pub features: usize,
    /// The function in the middle.
    pub activation: Activation,
    /// Whether it has a gate, and how it is stored.
    pub gate: Gate,
    /// Its matrices have biases.
    pub bias: bool,
    /// Gate and up are clamped (gpt-oss).
    pub clamp: Option<Clamp>,
}

/// The gate of an MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Gate {
    /// None: `down(activation(up(x)))`.
    None,
    /// A matrix: `down(activation(gate(x)) · up(x))`.
    Apart,
    /// The first half of the rows of one matrix.
    Fused,
    /// Every second row of one matrix, from the first (gpt-oss).
    Interleaved,
}

/// Some MLPs of many, chosen for each token.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExpertsSpec {
    /// How many there are.
    pub count: usize,
    /// How many a token goes through.
    pub chosen: usize,
    /// Each of them.
    pub each: MlpSpec,
    /// How their matrices are stored.
    pub stored: ExpertStorage,
    /// What chooses them.
    pub router: RouterSpec,
    /// An MLP that every token goes through.
    pub shared: Option<SharedExpertSpec>,
}

/// How the matrices of experts are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ExpertStorage {
    /// A tensor for each expert.
    Each,
    /// One tensor `[experts, out, in]`.
    Stacked,
    /// One tensor `[experts, in, out]`.
    StackedTransposed,
}

/// An MLP beside the experts that every token goes through.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SharedExpertSpec {
    /// The MLP.
    pub mlp: MlpSpec,
    /// What comes out is multiplied with the sigmoid of a gate (Qwen 2 MoE).
    pub gated: bool,
}

impl HeadSpec {
    /// Without a bias, a multiplier or a cap.
    pub const fn tied(tied: bool) -> Self {
        Self {
            tied,
            bias: false,
            multiplier: None,
            soft_cap: None,
        }
    }
}

impl AttentionSpec {
    /// Heads of `head_features` that are rotated whole and see everything before them, without biases and norms.
    pub fn new(
        heads: usize,
        key_value_heads: usize,
        head_features: usize,
        rotary: Option<RotarySpec>,
    ) -> Self {
        Self {
            heads,
            key_value_heads,
            head_features,
            projections: Projections::Apart,
            qkv_bias: false,
            o_bias: false,
            scale: (head_features as f64).sqrt().recip(),
            soft_cap: None,
            sees: Sees::All,
            rotary,
            query_key_norm: None,
            value_norm: None,
            query_growth: None,
            sinks: false,
            gate: false,
            values_are_keys: false,
            keys_of: None,
        }
    }
}

impl QueryKeyNormSpec {
    /// Before the rotation, with a scale.
    pub const fn new(norm: NormSpec, over: NormOver) -> Self {
        Self {
            norm,
            over,
            after_rotary: false,
            scaled: true,
        }
    }
}

impl MlpSpec {
    /// Without a gate.
    pub const fn plain(features: usize, activation: Activation, bias: bool) -> Self {
        Self {
            gate: Gate::None,
            bias,
            ..Self::gated(features, activation)
        }
    }

    /// With a gate of its own, without biases.
    pub const fn gated(features: usize, activation: Activation) -> Self {
        Self {
            features,
            activation,
            gate: Gate::Apart,
            bias: false,
            clamp: None,
        }
    }
}

impl LayerSpec {
    /// Norms before each half.
    pub const fn new(mixer: MixerSpec, feed_forward: FeedForwardSpec, norm: NormSpec) -> Self {
        Self {
            mixer,
            feed_forward,
            norms: NormPlaces::Before,
            norm,
            residual_multiplier: None,
            scalar: false,
        }
    }

    /// Its attention, where it is grouped.
    pub const fn attention(&self) -> Option<&AttentionSpec> {
        match &self.mixer {
            MixerSpec::Attention(attention) => Some(attention),
            MixerSpec::Latent(_) | MixerSpec::Delta(_) => None,
        }
    }

    /// What turns its queries and keys, where something does.
    pub const fn rotary(&self) -> Option<&RotarySpec> {
        match &self.mixer {
            MixerSpec::Attention(attention) => attention.rotary.as_ref(),
            MixerSpec::Latent(latent) => Some(&latent.rotary),
            MixerSpec::Delta(_) => None,
        }
    }

    /// Its experts, where it has some.
    pub const fn experts(&self) -> Option<&ExpertsSpec> {
        match &self.feed_forward {
            FeedForwardSpec::Experts(experts) | FeedForwardSpec::Both { experts, .. } => {
                Some(experts)
            }
            FeedForwardSpec::Mlp(_) => None,
        }
    }

    /// The same, to be changed.
    pub const fn experts_mut(&mut self) -> Option<&mut ExpertsSpec> {
        match &mut self.feed_forward {
            FeedForwardSpec::Experts(experts) | FeedForwardSpec::Both { experts, .. } => {
                Some(experts)
            }
            FeedForwardSpec::Mlp(_) => None,
        }
    }

    /// Its MLP, where it has one.
    pub const fn mlp(&self) -> Option<&MlpSpec> {
        match &self.feed_forward {
            FeedForwardSpec::Mlp(mlp) | FeedForwardSpec::Both { mlp, .. } => Some(mlp),
            FeedForwardSpec::Experts(_) => None,
        }
    }
}

impl Spec {
    /// The path of a module, without `.weight`; `layer` is the number of the layer that it is in.
    pub fn path(&self, layer: Option<usize>, part: Part) -> String {
        self.names.path(self.prefixes, layer, part)
    }

    /// The path of a layer: `model.layers.3`.
    pub(super) fn layer_path(&self, nth: usize) -> String {
        let (body, layers) = (self.prefixes.body, self.names.layers);
        format!("{body}{layers}.{nth}")
    }

    /// The name that transformers 5 has for the module at a path of the checkpoint. Files have older names, or leave out the
    /// beginning.
    pub fn module(&self, path: &str) -> String {
        if path == self.path(None, Part::Head) {
            return TIED_HEAD.to_owned();
        }
        self.names.module(self.prefixes, path)
    }

    /// The same model, named as in the checkpoint that `has` these tensors: its names may begin otherwise.
    pub(super) fn named(self, has: &dyn Fn(&str) -> bool) -> Self {
        let embedding = |prefixes| self.names.path(prefixes, None, Part::Embedding);
        let mut known = self.names.all_prefixes().into_iter();
        let prefixes = known.find(|prefixes| has(&format!("{}.weight", embedding(*prefixes))));
        let prefixes = prefixes.unwrap_or(self.prefixes);
        let mut named = Self { prefixes, ..self };
        // The fields of a multimodal model tie its head by default, and some that leave it so have another head.
        if prefixes.inside() {
            let head = named.path(None, Part::Head);
            named.head.tied &= !has(&format!("{head}.weight"));
        }
        named.experts_as_stored(has);
        // What drops the second name of a matrix may drop that of the embedding (`safetensors.torch.save_model`).
        let has = |part| has(&format!("{}.weight", named.path(None, part)));
        named.embedding.under_head = named.head.tied && !has(Part::Embedding) && has(Part::Head);
        named
    }

    /// Experts that dense files stack have a tensor for each matrix, or for each matrix of all experts, where the checkpoint
    /// `has` such ones.
    fn experts_as_stored(&mut self, has: &dyn Fn(&str) -> bool) {
        const CODES: [&str; 3] = ["weight", "weight_packed", "W_q"];
        let gates = (0..self.layers.len()).map(|nth| self.path(Some(nth), Part::ExpertGate));
        let gates: Vec<String> = gates.collect();
        let layers = self.layers.iter_mut().zip(gates);
        for (experts, gate) in layers.filter_map(|(layer, gate)| Some((layer.experts_mut()?, gate)))
        {
            let first = gate.replace("{}", "0");
            let each = CODES.iter().any(|codes| has(&format!("{first}.{codes}")));
            let stack = gate.replace("experts.{}", self.names.switch);
            // As GGUF files have them.
            let blocks = |kind: Gguf| has(&format!("{stack}.gguf_{}", kind.name()));
            let is_stack = has(&format!("{stack}.weight")) || Gguf::ALL.into_iter().any(blocks);
            let is_apart = each || is_stack;
            if is_apart && experts.stored != ExpertStorage::Each {
                experts.stored = ExpertStorage::Each;
                experts.each.gate = Gate::Apart;
            }
        }
    }

    /// How files have the experts in stacks, where dense ones do.
    pub(super) fn stacks(&self) -> Option<Stacks> {
        let mut experts = self.layers.iter().filter_map(LayerSpec::experts);
        let experts = experts.find(|experts| experts.stored != ExpertStorage::Each)?;
        Some(Stacks {
            transposed: experts.stored == ExpertStorage::StackedTransposed,
            interleaved: experts.each.gate == Gate::Interleaved,
            switch: self.names.switch,
        })
    }

    /// Whether later layers use the keys and values of layer `nth`.
    pub fn lends(&self, nth: usize) -> bool {
        let mut attentions = self.layers.iter().filter_map(LayerSpec::attention);
        attentions.any(|attention| attention.keys_of == Some(nth))
    }

    /// The grouped attention of each layer that has it, and the number of the layer.
    pub fn attentions_mut(&mut self) -> impl Iterator<Item = (usize, &mut AttentionSpec)> {
        let layers = self.layers.iter_mut().enumerate();
        layers.filter_map(|(layer, spec)| match &mut spec.mixer {
            MixerSpec::Attention(attention) => Some((layer, attention)),
            MixerSpec::Latent(_) | MixerSpec::Delta(_) => None,
        })
    }

    /// The MLP of each layer that has one.
    pub fn mlps_mut(&mut self) -> impl Iterator<Item = &mut MlpSpec> {
        let layers = self.layers.iter_mut();
        layers.filter_map(|layer| match &mut layer.feed_forward {
            FeedForwardSpec::Mlp(mlp) | FeedForwardSpec::Both { mlp, .. } => Some(mlp),
            FeedForwardSpec::Experts(_) => None,
        })
    }
}
