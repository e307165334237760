//! What the graph of a batch keeps of each layer until its backward pass, counted from the words of the architecture.
//!
//! Letters: `f` features of the model, `m` features inside an MLP, `h` query heads, `kv` key heads, `d` features of a head, `s` tokens
//! that a query is compared with. Of a Llama with factors of rank `r` on every matrix, a token keeps in each layer
//!
//! ```text
//! x and norm(x), twice     4 f           queries, and what heads read     2 h d
//! keys and values          2 kv d        scores in three forms, f32       3 h s
//! gate, its sigmoid, their product, up, and what goes down                 5 m
//! x A of each factor       r
//! ```

use crate::model::decoder::{
    AttentionSpec, FeedForwardSpec, Gate, LayerSpec, MixerSpec, MlpSpec, NormPlaces, Part, Spec,
};
use crate::model::layers::Activation;

/// Scores that exist at once, as in [`attend`](crate::model::layers::attend): more are computed in blocks, which leave out later keys.
const SCORES_MAX: usize = 1 << 25;

const F32: u64 = 4;

/// What is trained of a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trains {
    /// Factors of this rank.
    Factors {
        rank: usize,
        /// Norms of rows too.
        dora: bool,
        /// Activations are dropped before them.
        dropout: bool,
    },
    /// The matrix.
    Whole,
    /// Nothing.
    Nothing,
}

/// A batch that goes through a model.
pub(super) struct Passing<'p> {
    pub(super) spec: &'p Spec,
    /// Rows, and tokens of each.
    pub(super) shape: [usize; 2],
    /// Bytes of an activation.
    pub(super) size: u64,
    /// The layer whose input is in no graph, where there is one: its first norm keeps nothing, and no mask of that input is needed again.
    pub(super) enters: Option<usize>,
    /// What is trained of the module with this path.
    pub(super) trains: &'p dyn Fn(&str) -> Trains,
}

impl Passing<'_> {
    pub(super) fn tokens(&self) -> u64 {
        let [rows, length] = self.shape;
        (rows as u64).saturating_mul(length as u64)
    }

    /// Bytes that the graph keeps of layer `nth`.
    pub(super) fn layer(&self, nth: usize) -> u64 {
        let layer = &self.spec.layers[nth];
        let mixer = match &layer.mixer {
            MixerSpec::Attention(attention) => self.attention(nth, attention),
            MixerSpec::Latent(latent) => {
                let heads = latent.heads;
                let query = latent.plain_features + latent.rotary.features;
                let row = latent.query_rank.unwrap_or(0) + latent.key_value_rank;
                let made = 2 * heads * (2 * query + latent.value_features) + 2 * row;
                (made + self.spec.features) as u64 * self.size + self.scores(heads, false)
            }
            MixerSpec::Delta(delta) => {
                let keys = delta.key_heads * delta.key_features;
                let values = delta.value_heads * delta.value_features;
                // Before and after the convolution, normalised, by chunk with and without fades; gate and output.
                (self.spec.features + 8 * (2 * keys + values) + 3 * values) as u64 * self.size
            }
        };
        let feed_forward = match &layer.feed_forward {
            FeedForwardSpec::Mlp(mlp) => self.mlp(nth, mlp),
            FeedForwardSpec::Experts(experts) => self.experts(experts),
            FeedForwardSpec::Both { mlp, experts } => self.mlp(nth, mlp) + self.experts(experts),
        };
        let of_token = self.norms(nth, layer) + mixer + feed_forward;
        self.tokens().saturating_mul(of_token)
    }

    /// Bytes of what goes into a layer.
    pub(super) fn input(&self) -> u64 {
        self.tokens()
            .saturating_mul(self.spec.features as u64 * self.size)
    }

    /// Bytes of the two widest gradients that exist at a time while layer `nth` is gone through backwards.
    pub(super) fn gradients(&self, nth: usize) -> u64 {
        let layer = &self.spec.layers[nth];
        let inside = |mlp: &MlpSpec| mlp.features;
        let chosen = layer.experts();
        let chosen = chosen.map_or(0, |experts| inside(&experts.each) * experts.chosen);
        let widest = layer.mlp().map_or(0, inside).max(chosen);
        let widest = widest.max(self.spec.features) as u64;
        self.tokens().saturating_mul(2 * widest * self.size)
    }

    /// Bytes of the largest block of scores.
    pub(super) fn scores_at_once(&self) -> u64 {
        let attentions = self.spec.layers.iter().filter_map(LayerSpec::attention);
        let heads = attentions.map(|attention| attention.heads).max();
        let [_, length] = self.shape;
        let all = self.tokens().saturating_mul(length as u64);
        let all = all.saturating_mul(heads.unwrap_or(0) as u64);
        all.min(SCORES_MAX as u64) * F32
    }

    /// What goes into each norm, of a token.
    fn norms(&self, nth: usize, layer: &LayerSpec) -> u64 {
        let norms = match layer.norms {
            NormPlaces::Parallel => 1,
            NormPlaces::Before | NormPlaces::After | NormPlaces::ParallelApart => 2,
            NormPlaces::Around => 4,
        };
        // A norm that is trained itself needs its input in any case.
        let path = self.spec.path(Some(nth), Part::AttentionNorm);
        let is_constant = self.enters == Some(nth) && (self.trains)(&path) == Trains::Nothing;
        let without = match layer.norms {
            NormPlaces::After => 0,
            _ => u64::from(is_constant),
        };
        (norms - without) * self.spec.features as u64 * F32
    }

    fn attention(&self, nth: usize, attention: &AttentionSpec) -> u64 {
        let (heads, size) = (attention.heads, attention.head_features);
        let (queries, keys) = (heads * size, attention.key_value_heads * size);
        let into = [
            (Part::Q, queries),
            (Part::K, keys),
            (Part::V, keys),
            // Where one matrix makes all of them, there are no others.
            (Part::Qkv, queries + 2 * keys),
        ];
        let f = self.spec.features;
        let projections = self.linear(nth, f, &into);
        let normed = match attention.query_key_norm {
            Some(_) => (queries + keys) as u64 * F32,
            None => 0,
        };
        let gate = if attention.gate { 3 * queries } else { 0 };
        let own = if attention.keys_of.is_none() { 2 } else { 0 };
        let read = (queries + own * keys + gate) as u64 * self.size;
        let out = self.linear(nth, queries, &[(Part::O, f)]);
        let scores = self.scores(heads, attention.soft_cap.is_some());
        projections + normed + read + scores + out
    }

    /// Scores less their largest, their exponentials, and the weights that they become.
    fn scores(&self, heads: usize, capped: bool) -> u64 {
        let [rows, length] = self.shape;
        let at_once = (SCORES_MAX / (rows * heads * length).max(1)).clamp(1, length.max(1));
        let blocks = length.div_ceil(at_once) as u64;
        let forms = if capped { 5 } else { 3 };
        let rounded = if self.size < F32 { self.size } else { 0 };
        let all = (heads * length) as u64 * (forms * F32 + rounded);
        // The keys of block k of n are k/n of all.
        all * (blocks + 1) / (2 * blocks).max(2)
    }

    fn mlp(&self, nth: usize, mlp: &MlpSpec) -> u64 {
        let (f, m) = (self.spec.features, mlp.features);
        let into = match mlp.gate {
            Gate::Apart => self.linear(nth, f, &[(Part::Gate, m), (Part::Up, m)]),
            Gate::None => self.linear(nth, f, &[(Part::Up, m)]),
            Gate::Fused | Gate::Interleaved => self.linear(nth, f, &[(Part::GateUp, 2 * m)]),
        };
        let inside = self.inside(mlp) * m as u64 * self.size;
        into + inside + self.linear(nth, m, &[(Part::Down, f)])
    }

    /// Rows of `m` values that are kept between the matrices of an MLP.
    fn inside(&self, mlp: &MlpSpec) -> u64 {
        let bent = match mlp.activation {
            _ if mlp.clamp.is_some() => 4,
            Activation::Silu => 2,
            // What went in, the tangent, and 1 more than it.
            Activation::GeluTanh => 3,
            Activation::Gelu | Activation::Relu | Activation::ReluSquared => 1,
        };
        match mlp.gate {
            Gate::None => bent,
            Gate::Apart | Gate::Fused | Gate::Interleaved => bent + 2,
        }
    }

    /// Rows that are gathered for the experts of a token, and what is inside of these.
    fn experts(&self, experts: &crate::model::decoder::ExpertsSpec) -> u64 {
        let f = self.spec.features as u64;
        let inside = |mlp: &MlpSpec| (self.inside(mlp) + 1) * mlp.features as u64;
        let shared = experts.shared.as_ref();
        let shared = shared.map_or(0, |shared| inside(&shared.mlp) + f);
        let chosen = experts.chosen as u64 * (inside(&experts.each) + 2 * f);
        (chosen + shared) * self.size
    }

    /// What matrices keep that share an input of `from` features, and make so many features each.
    fn linear(&self, nth: usize, from: usize, parts: &[(Part, usize)]) -> u64 {
        let (mut kept, mut input) = (0, 0);
        let enters = |part: &Part| matches!(part, Part::Q | Part::K | Part::V | Part::Qkv);
        for (part, out) in parts {
            match (self.trains)(&self.spec.path(Some(nth), *part)) {
                Trains::Nothing => {}
                Trains::Whole => input = from as u64 * self.size,
                Trains::Factors {
                    rank,
                    dora,
                    dropout,
                } => {
                    match dropout {
                        // What the mask leaves, and the mask, where there are gradients of what went in.
                        true if self.enters == Some(nth) && enters(part) => {
                            kept += from as u64 * F32;
                        }
                        true => kept += 2 * from as u64 * F32,
                        false => input = from as u64 * self.size,
                    }
                    // A rank above is refused when the adapter is put on.
                    kept += rank.min(from).min(*out) as u64 * F32;
                    kept += if dora { 2 * *out as u64 * F32 } else { 0 };
                }
            }
        }
        kept + input
    }
}
