//! The Llama family: Llama, Mistral, Qwen 2 and Qwen 3, which differ in biases, norms and windows.
//!
//! Reading order: [`LlamaConfig`] (what `config.json` says) → the names of the tensors → [`Mlp`],
//! [`Block`] → [`Llama`].
//!
//! Letters: `b` batch, `t` tokens, `f` features, `v` vocabulary.

mod config;

mod slots;

mod mlp;

mod block;

pub use block::Block;
pub use config::{Family, LlamaConfig};
pub use mlp::Mlp;

use burn::{
    module::Module,
    tensor::{DType, Int, Tensor, TensorData},
};
use serde_json::Value;

use self::slots::Part;
use super::{
    Architecture, Attention, BuildError, Cache, CacheError, ConfigError, Decoder, Embedding, Heads,
    Linear, Link, RmsNorm, Rope, Slot, Weights,
};

/// A model of the Llama family.
///
/// Its parts are public: a forward pass of one's own (hidden states, early exits, other caches) is a
/// loop over [`blocks`](Self::blocks), as [`forward`](Self::forward) is.
#[derive(Module, Debug)]
pub struct Llama {
    /// `[v, f]`.
    pub embedding: Embedding,
    /// Rotates queries and keys by their position.
    #[module(skip)]
    pub rope: Rope,
    /// From the first to the last.
    pub blocks: Vec<Block>,
    /// Over `[f]`.
    pub norm: RmsNorm,
    /// `[v, f]`; absent where the embedding is the head too.
    pub head: Option<Linear>,
    /// What the model was built from.
    #[module(skip)]
    pub config: LlamaConfig,
}

impl Llama {
    /// Logits `[b, t, v]` of every token of `ids` `[b, t]`; at least one token.
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let [_, t] = ids.dims();
        let mut x = self.embedding.forward(ids);
        let rotation = self.rope.at(0..t, &x.device(), x.dtype());
        for block in &self.blocks {
            x = block.forward(x, &rotation, |keys, values| (keys, values));
        }
        self.logits(x)
    }

    /// Logits `[b, t, v]` of the new tokens `ids` `[b, t]`, at least one, which follow those that
    /// `cache` holds.
    ///
    /// # Errors
    ///
    /// [`CacheError`] when the cache has no room for them, or is not of this model and batch. The cache
    /// is as before.
    pub fn forward_cached(
        &self,
        ids: Tensor<2, Int>,
        cache: &mut Cache,
    ) -> Result<Tensor<3>, CacheError> {
        Ok(self.logits(self.hidden_cached(ids, cache)?))
    }

    /// What comes out of the last layer, `x` `[b, t, f]`, to logits `[b, t, v]`.
    pub fn logits(&self, x: Tensor<3>) -> Tensor<3> {
        let x = self.norm.forward(x);
        match &self.head {
            Some(head) => head.forward(x),
            None => self.embedding.logits(x),
        }
    }

    /// `ids` `[b, t]` to what comes out of the last layer, `[b, t, f]`.
    fn hidden_cached(
        &self,
        ids: Tensor<2, Int>,
        cache: &mut Cache,
    ) -> Result<Tensor<3>, CacheError> {
        let [b, t] = ids.dims();
        let start = cache.len();
        let layers = cache.extend(self.blocks.len(), [b, t])?;

        let mut x = self.embedding.forward(ids);
        let rotation = self.rope.at(start..start + t, &x.device(), x.dtype());
        for (block, layer) in self.blocks.iter().zip(layers) {
            x = block.forward(x, &rotation, |keys, values| layer.append(keys, values));
        }
        Ok(x)
    }
}

impl Decoder for Llama {
    fn vocabulary(&self) -> usize {
        self.config.vocabulary
    }

    fn cache(&self) -> Cache {
        Cache::new(self.blocks.len(), self.config.positions)
    }

    fn step(&self, ids: &[u32], cache: &mut Cache) -> Result<Tensor<1>, CacheError> {
        let (t, device) = (ids.len(), self.norm.scale.val().device());
        let ids: Vec<i32> = ids.iter().map(|id| id.cast_signed()).collect();
        let ids = Tensor::from_data(TensorData::new(ids, [1, t]), (&device, DType::I32));

        // The head is the widest product of the model, and a prompt needs it for its last token only.
        let x = self.hidden_cached(ids, cache)?;
        let last = x.narrow(1, t - 1, 1);
        Ok(self.logits(last).reshape([self.config.vocabulary]))
    }
}

impl Architecture for Llama {
    type Config = LlamaConfig;

    fn config(json: &Value) -> Result<LlamaConfig, ConfigError> {
        LlamaConfig::from_json(json)
    }

    fn slots(config: &LlamaConfig) -> Vec<Slot> {
        slots::slots(config)
    }

    fn build(config: &LlamaConfig, weights: &mut Weights) -> Result<Self, BuildError> {
        let norm = |weights: &mut Weights, path: &str| {
            let scale = weights.param(&format!("{path}.weight"))?;
            Ok::<_, BuildError>(RmsNorm::new(scale, config.norm_eps))
        };
        let block = |(layer, window): (usize, &Option<usize>)| {
            let path = |part: Part| part.path(layer);
            let qk_norm = |weights: &mut Weights, part: Part| {
                config
                    .qk_norm
                    .then(|| norm(weights, &path(part)))
                    .transpose()
            };
            Ok::<_, BuildError>(Block {
                attention_norm: norm(weights, &path(Part::AttentionNorm))?,
                attention: Attention {
                    q_proj: weights.linear(&path(Part::Q))?,
                    k_proj: weights.linear(&path(Part::K))?,
                    v_proj: weights.linear(&path(Part::V))?,
                    q_norm: qk_norm(weights, Part::QNorm)?,
                    k_norm: qk_norm(weights, Part::KNorm)?,
                    o_proj: weights.linear(&path(Part::O))?,
                    heads: Heads {
                        query: config.heads,
                        key_value: config.key_value_heads,
                        features: config.head_features,
                        window: *window,
                    },
                },
                mlp_norm: norm(weights, &path(Part::MlpNorm))?,
                mlp: Mlp {
                    gate_proj: weights.linear(&path(Part::Gate))?,
                    up_proj: weights.linear(&path(Part::Up))?,
                    down_proj: weights.linear(&path(Part::Down))?,
                },
            })
        };
        let blocks = config.windows.iter().enumerate().map(block);
        let blocks = blocks.collect::<Result<_, _>>()?;
        Ok(Self {
            embedding: weights.embedding(slots::EMBEDDING)?,
            rope: Rope::new(config.head_features, config.rope_theta, config.rope_scaling),
            blocks,
            norm: norm(weights, slots::NORM)?,
            head: match config.tied {
                true => None,
                false => Some(weights.linear(slots::HEAD)?),
            },
            config: config.clone(),
        })
    }

    fn links(config: &LlamaConfig) -> Vec<Link> {
        slots::links(config)
    }

    fn leaves_out(config: &LlamaConfig, tensor: &str) -> bool {
        slots::leaves_out(config, tensor)
    }
}
