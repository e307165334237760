//! The decoder as a module: embedding, layers, norm, head.
//!
//! Letters: `b` batch, `t` tokens, `f` features, `v` vocabulary.

use core::ops::Range;

use super::{
    block::Block,
    passage::Passage,
    ranks::{DecoderRanks, ModelEnd},
    spec::Spec,
    tail::bent,
};
use crate::{
    config::KvCacheDtype,
    model::{
        NextToken,
        layers::{
            Cache, CacheError, Documents, Embedding, LentKeys, Linear, Matrix, NoMemory, Norm,
            PerLayerEmbedding, Rope, Rotation, Sight,
            device::{ids_on, on},
        },
        stream::{StreamStats, StreamTally},
    },
};
use burn::{
    module::Module,
    tensor::{DType, Device, Int, Tensor, TensorData},
};

/// A language model of any family in `model/arch`.
///
/// Its parts are public: a custom forward pass (hidden states, early exits, other memories) is a
/// loop over [`blocks`](Self::blocks), as [`forward`](Self::forward) is:
///
/// ```no_run
/// # use burn::tensor::{Int, Tensor};
/// # use firebox::model::{CausalLm, layers::NoMemory};
/// # fn logits(model: &CausalLm, ids: Tensor<2, Int>) -> Tensor<3> {
/// let (mut x, mut passage) = model.enter(ids, 0);
/// for block in &model.blocks {
///     x = block.forward(x, &mut passage, &mut NoMemory);
/// }
/// model.logits(x)
/// # }
/// ```
#[derive(Module, Debug)]
pub struct CausalLm {
    /// `[v, f]`.
    pub embedding: Embedding,
    /// A row for each position, which is added; absent where positions are not learned.
    pub positions: Option<Embedding>,
    /// Small embeddings for each layer; absent in most models.
    pub per_layer: Option<PerLayerEmbedding>,
    /// What rotates queries and keys by their position: one entry for each kind of layer, see [`Block::rope`].
    #[module(skip)]
    pub ropes: Vec<Rope>,
    /// From the first to the last.
    pub blocks: Vec<Block>,
    /// Over `[f]`.
    pub norm: Norm,
    /// `[v, f]`; absent where the embedding is the head too.
    pub head: Option<Linear>,
    /// What the module was built from.
    #[module(skip)]
    pub spec: Spec,
    /// The type that its caches keep keys and values in; that of activations where there is none.
    #[module(skip)]
    pub kv_cache: Option<KvCacheDtype>,
    /// The other ranks, where it is divided among several.
    #[module(skip)]
    pub(super) ranks: Option<DecoderRanks>,
}

impl CausalLm {
    /// Logits `[b, t, v]` of every token of `ids` `[b, t]`; at least one token, and no more than the model has positions.
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let (x, mut passage) = self.enter(ids, 0);
        let mut memories = vec![NoMemory; self.blocks.len()];
        let x = self.through(x, &mut passage, &mut memories);
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
        let logits = self.logits(self.hidden_cached(ids, cache)?);
        self.check_ranks()?;
        Ok(logits)
    }

    /// What comes out of the last layer, `x` `[b, t, f]`, to logits `[b, t, v]`, on the device of the head.
    pub fn logits(&self, x: Tensor<3>) -> Tensor<3> {
        let [b, t, _] = x.dims();
        let (shape, dtype) = ([b, t, self.spec.vocabulary], x.dtype());
        self.at_end(ModelEnd::Last, shape, dtype, || {
            let x = self.norm.forward(on(x, &self.norm.device()));
            let logits = match &self.head {
                Some(head) => self.whole_logits(head.forward(on(x, &head.weight.device()))),
                None => self.embedding.logits(on(x, &self.embedding.table.device())),
            };
            bent(logits, &self.spec.head)
        })
    }

    /// `ids` `[b, t]`, the first of them at position `start`, to what goes into the first layer, `[b, t, f]`, and what
    /// the layers share; both are on the device of the embedding.
    pub fn enter(&self, ids: Tensor<2, Int>, start: usize) -> (Tensor<3>, Passage) {
        let [_, t] = ids.dims();
        let ids = ids_on(ids, &self.device());
        let x = self.embed(ids.clone(), start);
        let rotations = self.rotations(start..start + t, &x.device(), x.dtype());
        let passage = self.passage(ids, &x, rotations, Sight::default());
        (x, passage)
    }

    /// [`enter`](Self::enter) for rows of `documents`, of the shape of `ids` `[b, t]`: positions begin anew with each document,
    /// and its tokens see each other only. The layers must not remember other tokens.
    pub fn enter_documents(
        &self,
        ids: Tensor<2, Int>,
        documents: &Documents,
    ) -> (Tensor<3>, Passage) {
        let ids = ids_on(ids, &self.device());
        let (shape, device) = (documents.shape(), ids.device());
        let positions = documents.ranges().flat_map(|tokens| 0..tokens.len());
        let x = self.embed_at(ids.clone(), || position_ids(positions, shape, &device));
        let (device, dtype) = (x.device().without_autodiff(), x.dtype());
        let ropes = self.ropes.iter();
        let rotations = ropes.map(|rope| rope.in_documents(documents, &device, dtype));
        let passage = self.passage(ids, &x, rotations.collect(), Sight::new(documents));
        (x, passage)
    }

    /// What layers share beside `x` `[b, t, f]`, which goes into the first of them.
    fn passage(
        &self,
        ids: Tensor<2, Int>,
        x: &Tensor<3>,
        rotations: Vec<Rotation>,
        sight: Sight,
    ) -> Passage {
        let [b, t, _] = x.dims();
        let small = self.per_layer.as_ref();
        Passage {
            rotations,
            small: small.map(|small| {
                let shape = [b, t, self.blocks.len(), small.features];
                self.at_end(ModelEnd::First, shape, x.dtype(), || {
                    small.forward(ids, x.clone())
                })
            }),
            lent: LentKeys::new(),
            sight,
        }
    }

    /// `ids` `[b, t]`, the first of them at position `start`, to what goes into the first layer, `[b, t, f]`.
    pub fn embed(&self, ids: Tensor<2, Int>, start: usize) -> Tensor<3> {
        let ([_, t], device) = (ids.dims(), ids.device());
        self.embed_at(ids, || position_ids(start..start + t, [1, t], &device))
    }

    /// The same at `positions` `[1 or b, t]`, where they are learned.
    fn embed_at(
        &self,
        ids: Tensor<2, Int>,
        positions: impl FnOnce() -> Tensor<2, Int>,
    ) -> Tensor<3> {
        let [b, t] = ids.dims();
        let shape = [b, t, self.spec.features];
        self.at_end(ModelEnd::First, shape, self.activations(), || {
            let x = self.embedding.forward(ids);
            let x = match self.spec.embedding.multiplier {
                Some(multiplier) => x * multiplier,
                None => x,
            };
            match &self.positions {
                Some(learned) => x + learned.forward(positions()),
                None => x,
            }
        })
    }

    /// The rotations of all layers at `positions`, in the type that activations are in.
    pub fn rotations(
        &self,
        positions: Range<usize>,
        device: &Device,
        dtype: DType,
    ) -> Vec<Rotation> {
        let device = device.clone().without_autodiff();
        let ropes = self.ropes.iter();
        ropes
            .map(|rope| rope.at(positions.clone(), &device, dtype))
            .collect()
    }

    /// What products with streamed weights waited for; `None` where no weight is streamed. The weights of a device share one
    /// [`Ring`](crate::model::stream::Ring), and the counts are those of all devices.
    pub fn stream_stats(&self) -> Option<StreamStats> {
        let blocks = self.blocks.iter().flat_map(Block::linears);
        let linears = blocks.chain(&self.head).map(|linear| &linear.weight);
        let matrices = linears.chain([&self.embedding.table]);
        StreamTally::of(matrices.filter_map(Matrix::ring)).map(|tally| tally.stats())
    }

    /// Where tokens go in: the device of the embedding. That of all the model, unless it is spread over several.
    pub fn device(&self) -> Device {
        self.embedding.table.device()
    }

    /// `ids` `[b, t]` to what comes out of the last layer, `[b, t, f]`.
    fn hidden_cached(
        &self,
        ids: Tensor<2, Int>,
        cache: &mut Cache,
    ) -> Result<Tensor<3>, CacheError> {
        let [b, t] = ids.dims();
        cache.check(self.blocks.len(), [b, t])?;
        let ids = self.seen_again(ids, cache);

        let (start, all) = (cache.len(), ids.dims());
        let layers = cache.extend(self.blocks.len(), all)?;
        let (x, mut passage) = self.enter(ids, start);
        let x = self.through(x, &mut passage, layers);
        Ok(x.narrow(1, all[1] - t, t))
    }

    /// The tokens to compute for the new ones `ids` `[b, t]`: these or, where the text gets so long that the keys of the
    /// cache no longer fit, all of the text.
    fn seen_again(&self, ids: Tensor<2, Int>, cache: &mut Cache) -> Tensor<2, Int> {
        let [_, t] = ids.dims();
        let (before, after, limit) = (cache.len(), cache.len() + t, cache.limit());
        let turns_again = |before, after| {
            let mut ropes = self.ropes.iter();
            ropes.any(|rope| rope.turns_again(before, after))
        };
        if turns_again(before, after) {
            let mut all = cache.take_ids();
            all.push(ids);
            return Tensor::cat(all, 1);
        }
        if turns_again(after, limit) {
            cache.keep_ids(ids.clone());
        }
        ids
    }
}

/// Positions as ids of this shape.
fn position_ids(
    positions: impl Iterator<Item = usize>,
    shape: [usize; 2],
    device: &Device,
) -> Tensor<2, Int> {
    let ids: Vec<i32> = positions.map(|position| position as i32).collect();
    Tensor::from_data(TensorData::new(ids, shape), (device, DType::I32))
}

impl NextToken for CausalLm {
    fn vocabulary(&self) -> usize {
        self.spec.vocabulary
    }

    fn cache(&self) -> Cache {
        Cache::new(self.blocks.len(), self.spec.positions).with_dtype(self.kv_cache)
    }

    fn step(&self, ids: &[u32], cache: &mut Cache) -> Result<Tensor<1>, CacheError> {
        let (t, device) = (ids.len(), self.device());
        let ids: Vec<i32> = ids.iter().map(|id| id.cast_signed()).collect();
        let ids = Tensor::from_data(TensorData::new(ids, [1, t]), (&device, DType::I32));

        // The head is the widest product of the model, and a prompt needs it for its last token only.
        let x = self.hidden_cached(ids, cache)?;
        let last = x.narrow(1, t - 1, 1);
        let logits = self.logits(last).reshape([self.spec.vocabulary]);
        self.check_ranks()?;
        Ok(logits)
    }
}
