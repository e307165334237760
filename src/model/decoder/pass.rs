//! The memory that a pass takes beside the weights, from a [`Spec`] alone.
//!
//! Letters: `b` sequences, `t` tokens of a sequence, `f` features, `h` query heads, `d` features of a head, `m` features inside of
//! an MLP, `v` vocabulary. Tensors that exist at the same time are counted, in the order in which the layers make them:
//!
//! | while | values |
//! |---|---|
//! | a layer is in use | `b·t·f`, what goes into it |
//! | queries, keys and values are made | `b·t·f` normalised, `b·t·d` for each of their heads, once more where they are rotated |
//! | queries are compared | in tiles: queries, their answers, and the scratch of each thread; else queries twice (as they are, and scaled), their answers twice, and the scores of a block of queries twice (before and after the softmax) |
//! | an MLP runs | `b·t·f` normalised, `b·t·m` for gate, up, and their product; on a processor the product is in the place of the gate, and `b·t·f` are in another order for products |
//! | experts run | `b·t·f` and the rows of all chosen experts before and after, and the MLP of the rows of one of them |
//! | logits are made | `v` for each of the rows that get logits |

use super::spec::{
    AttentionSpec, DeltaSpec, ExpertsSpec, FeedForwardSpec, Gate, LatentSpec, LayerSpec, MixerSpec,
    MlpSpec, Spec,
};
use crate::model::{
    layers::SCORES_MAX,
    pass::{LayerPass, PassBytes, PassMeans, PassSize},
};
use firebox_kernels::layers::attend;

/// Bytes of a value that is computed in `f32` whatever the type of activations.
const F32: u64 = 4;

/// The memory that a pass of this size takes.
pub(super) fn pass_bytes(spec: &Spec, size: &PassSize, means: &PassMeans) -> PassBytes {
    let width = means.width as u64;
    let shape = PassShape {
        b: size.batch as u64,
        // No pass is longer than that.
        t: size.length.min(spec.positions) as u64,
        f: spec.features as u64,
        width,
        means: *means,
    };
    PassBytes {
        layers: spec.layers.iter().map(|layer| shape.layer(layer)).collect(),
        through: shape.rows() * shape.f * width,
        // Only the last token of each sequence gets logits.
        head: 2 * shape.b * spec.vocabulary as u64 * width,
    }
}

/// The numbers that all layers share.
struct PassShape {
    b: u64,
    t: u64,
    f: u64,
    width: u64,
    means: PassMeans,
}

impl PassShape {
    fn rows(&self) -> u64 {
        self.b * self.t
    }

    fn layer(&self, layer: &LayerSpec) -> LayerPass {
        let (cache, mixer) = match &layer.mixer {
            MixerSpec::Attention(attention) => self.attention(attention),
            MixerSpec::Latent(latent) => self.latent(latent),
            MixerSpec::Delta(delta) => self.delta(delta),
        };
        let feed = match &layer.feed_forward {
            FeedForwardSpec::Mlp(mlp) => self.mlp(mlp, self.rows()),
            FeedForwardSpec::Experts(experts) => self.experts(experts),
            FeedForwardSpec::Both { mlp, experts } => {
                self.mlp(mlp, self.rows()).max(self.experts(experts)) + self.rows() * self.f
            }
        };
        let normed = self.rows() * self.f;
        LayerPass {
            cache,
            activations: (normed * self.width).saturating_add(mixer.max(feed * self.width)),
        }
    }

    /// Bytes of the cache, and bytes of activations.
    fn attention(&self, spec: &AttentionSpec) -> (u64, u64) {
        let (h, kv, d) = (
            spec.heads as u64,
            spec.key_value_heads as u64,
            spec.head_features as u64,
        );
        let own = if spec.keys_of.is_some() {
            0
        } else {
            2 * kv * d
        };
        let gates = if spec.gate { h * d } else { 0 };
        let cache = match spec.keys_of {
            Some(_) => 0,
            None => 2 * self.kept(kv, d),
        };
        // Each is there before and after it is rotated, the largest last.
        let made = self.rows() * (2 * h * d + own + gates);
        let held = match self.means.tiles {
            // Queries as they are, and their answers.
            Some(_) => made,
            None => self.rows() * (4 * h * d + own + gates),
        };
        let scores = self.scores(h, [d, d]);
        (cache, (made * self.width).max(held * self.width + scores))
    }

    fn latent(&self, spec: &LatentSpec) -> (u64, u64) {
        let h = spec.heads as u64;
        let rotated = spec.rotary.features as u64;
        let rank = spec.key_value_rank as u64;
        let row = rank + rotated;
        let key = spec.plain_features as u64 + rotated;
        let value = spec.value_features as u64;
        let cache = self.kept(1, rank) + self.kept(1, rotated);
        let queries = 2 * h * key;
        // Keys and values for each head.
        let unfolded = 2 * h * (spec.plain_features as u64 + value) + h * key;
        let held = self.rows() * (queries + unfolded + row + h * value);
        (cache, held * self.width + self.scores(h, [key, value]))
    }

    fn delta(&self, spec: &DeltaSpec) -> (u64, u64) {
        let (g, h) = (spec.key_heads as u64, spec.value_heads as u64);
        let (k, v) = (spec.key_features as u64, spec.value_features as u64);
        let channels = 2 * g * k + h * v;
        let state = self.b * h * k * v * F32;
        let tokens = self.b * (spec.kernel as u64).saturating_sub(1) * channels * self.width;
        let made = self.rows() * (2 * channels + 2 * h * v);
        // Queries and keys of all value heads, in f32.
        let rule = self.rows() * h * (2 * k + 3 * v);
        (state + tokens, made * self.width + rule * F32)
    }

    /// Keys or values of all tokens, as a cache keeps them.
    fn kept(&self, heads: u64, features: u64) -> u64 {
        let rows = self.rows() * heads;
        self.means.kv_cache.bytes(rows, features)
    }

    /// Scores of a block of queries in f32, before and after the softmax, or what threads have that compare queries with keys of
    /// these features in tiles.
    fn scores(&self, h: u64, features: [u64; 2]) -> u64 {
        if let Some(threads) = self.means.tiles {
            let features = features.map(|features| features as usize);
            return (threads * attend::scratch_bytes(features)) as u64;
        }
        let a_query = self.b * h * self.t;
        let queries = (SCORES_MAX as u64 / a_query.max(1)).clamp(1, self.t.max(1));
        2 * a_query * queries * F32
    }

    /// Values while an MLP runs on `rows`.
    fn mlp(&self, spec: &MlpSpec, rows: u64) -> u64 {
        let inside = spec.features as u64;
        // The processor lets through in the place of the gate, and its products have the rows once more, in an order of their own.
        let on_host = self.means.tiles.is_some();
        let tensors = match spec.gate {
            Gate::Apart if on_host => 2,
            Gate::None => 2,
            Gate::Apart => 3,
            // Both halves lie in one tensor before they are cut apart.
            Gate::Fused | Gate::Interleaved => 5,
        };
        let ordered = if on_host { self.f } else { 0 };
        rows * (tensors * inside + ordered)
    }

    fn experts(&self, spec: &ExpertsSpec) -> u64 {
        let (count, chosen) = (spec.count.max(1) as u64, spec.chosen as u64);
        let rows = self.rows() * chosen;
        // An expert is asked for twice its share of the rows, or by all of them where there are few.
        let busiest = (2 * rows).div_ceil(count).min(self.rows());
        let shared = spec.shared.as_ref();
        let shared = shared.map_or(0, |shared| self.mlp(&shared.mlp, self.rows()));
        let mixed = 2 * rows * self.f + self.mlp(&spec.each, busiest);
        mixed.max(shared + self.rows() * self.f)
    }
}
