//! What layers remember of the tokens seen so far, so that a new token costs one token.
//!
//! Letters: `b` batch, `n` heads, `t` new tokens, `d` features of a row.

use burn::tensor::{Int, Tensor};

use super::{
    kept_rows::KeptRows,
    remember::{DeltaState, Remember},
};
use crate::{collective::CollectiveError, config::KvCacheDtype};

/// Room for this many tokens is made at first; it doubles after that.
const TOKENS_MIN: usize = 64;

/// Tokens that a buffer for `tokens` has room for, of `limit` at most.
fn cache_room(tokens: usize, limit: usize) -> usize {
    tokens.next_power_of_two().max(TOKENS_MIN).min(limit)
}

/// What every layer remembers, for one batch of sequences of equal length.
///
/// Buffers are written in place: a token costs the copy of its own rows, not of everyone's. Where the number of tokens is known
/// beforehand ([`with_room`](Self::with_room)), nothing is ever copied; else buffers grow by doubling up to
/// [`limit`](Self::limit).
#[derive(Debug)]
pub struct Cache {
    layers: Vec<LayerCache>,
    /// Ids `[b, t]` of the tokens, where a model may want to see them again.
    ids: Vec<Tensor<2, Int>>,
    /// Tokens in every layer.
    len: usize,
    /// Tokens at most.
    limit: usize,
    kept: Keeping,
}

/// How rows are kept.
#[derive(Debug, Clone, Copy, Default)]
struct Keeping {
    /// Their type; that of activations where none is given.
    dtype: Option<KvCacheDtype>,
    /// Tokens that there is room for from the first token on.
    room: usize,
}

/// What one layer remembers.
#[derive(Debug, Default)]
pub struct LayerCache {
    /// Two kinds of rows `[b, n, room, d]`, of which the first `len` tokens are written.
    buffers: Option<[KeptRows; 2]>,
    /// That of a delta layer, which has no rows.
    state: Option<DeltaState>,
    /// Tokens written.
    len: usize,
    /// Tokens at most.
    limit: usize,
    kept: Keeping,
}

/// Tokens that a cache cannot take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// More tokens than the model has positions.
    #[error(
        "the context is full: {held} tokens are held and {asked} more asked for, of {limit} at most"
    )]
    Full {
        /// Tokens held.
        held: usize,
        /// Tokens that should be added.
        asked: usize,
        /// Tokens at most.
        limit: usize,
    },
    /// The cache belongs to a batch of another size.
    #[error(
        "the cache holds a batch of {held} sequences and was given {asked}; clear it or make another"
    )]
    Batch {
        /// Sequences held.
        held: usize,
        /// Sequences given.
        asked: usize,
    },
    /// The cache was made for a model of another depth.
    #[error("the cache has {held} layers and the model {asked}; make it with the model's `cache`")]
    Layers {
        /// Layers of the cache.
        held: usize,
        /// Layers of the model.
        asked: usize,
    },
    /// The other ranks, where a model is divided among several. The cache knows the tokens, and is of no use.
    #[error(transparent)]
    Ranks(#[from] CollectiveError),
}

impl Cache {
    /// An empty cache for a model of `layers` layers and `limit` positions. Takes no device memory yet.
    pub fn new(layers: usize, limit: usize) -> Self {
        Self {
            layers: (0..layers)
                .map(|_| LayerCache {
                    limit,
                    ..LayerCache::default()
                })
                .collect(),
            ids: Vec::new(),
            len: 0,
            limit,
            kept: Keeping::default(),
        }
    }

    /// The same cache, empty, with rows in another type than that of activations.
    pub fn with_dtype(self, dtype: Option<KvCacheDtype>) -> Self {
        let kept = Keeping { dtype, ..self.kept };
        self.kept_as(kept)
    }

    /// The same cache, empty, with room for so many tokens from the first one on, or for as many as the model has positions. More
    /// are taken too.
    pub fn with_room(self, tokens: usize) -> Self {
        let kept = Keeping {
            room: tokens.min(self.limit),
            ..self.kept
        };
        self.kept_as(kept)
    }

    fn kept_as(&self, kept: Keeping) -> Self {
        let mut cache = Self::new(self.layers.len(), self.limit);
        cache.kept = kept;
        for layer in &mut cache.layers {
            layer.kept = kept;
        }
        cache
    }

    /// Tokens that there is memory for; 0 before the first one.
    pub fn room(&self) -> usize {
        let rooms = self.layers.iter().map(LayerCache::room);
        rooms.max().unwrap_or(0)
    }

    /// Tokens held, which is the position of the next one.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no token is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Tokens at most.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Forgets every token and gives the memory back.
    pub fn clear(&mut self) {
        *self = self.kept_as(self.kept);
    }

    /// Whether the cache can take `[b, t]` new tokens of a model of `layers` layers.
    ///
    /// # Errors
    ///
    /// [`CacheError`].
    pub fn check(&self, layers: usize, [b, t]: [usize; 2]) -> Result<(), CacheError> {
        if self.layers.len() != layers {
            return Err(CacheError::Layers {
                held: self.layers.len(),
                asked: layers,
            });
        }
        if self.limit - self.len < t {
            return Err(CacheError::Full {
                held: self.len,
                asked: t,
                limit: self.limit,
            });
        }
        let held = self.layers.first().and_then(LayerCache::batch);
        if let Some(held) = held.filter(|held| *held != b) {
            return Err(CacheError::Batch { held, asked: b });
        }
        Ok(())
    }

    /// The layers of a cache that can take `[b, t]` new tokens. The caller appends `t` tokens to each.
    ///
    /// # Errors
    ///
    /// [`CacheError`], and the cache is as before.
    pub fn extend(
        &mut self,
        layers: usize,
        [b, t]: [usize; 2],
    ) -> Result<&mut [LayerCache], CacheError> {
        self.check(layers, [b, t])?;
        self.len += t;
        Ok(&mut self.layers)
    }

    /// Keeps the ids `[b, t]` of new tokens for a model that may want to see them again.
    pub(crate) fn keep_ids(&mut self, ids: Tensor<2, Int>) {
        self.ids.push(ids);
    }

    /// Forgets every token; the ids of those that were kept.
    pub(crate) fn take_ids(&mut self) -> Vec<Tensor<2, Int>> {
        let ids = core::mem::take(&mut self.ids);
        self.clear();
        ids
    }
}

impl Remember for LayerCache {
    fn append(&mut self, new: [Tensor<4>; 2]) -> [KeptRows; 2] {
        let [_, _, t, _] = new[0].dims();
        let (start, end) = (self.len, self.len + t);
        self.len = end;
        let new = new.map(|new| KeptRows::new(new, self.kept.dtype));

        // Taken out, not cloned: a buffer with a single owner is written in place.
        let buffers = match self.buffers.take() {
            Some(buffers) if end <= buffers[0].dims()[2] => buffers,
            held => {
                let room = match end <= self.kept.room {
                    true => self.kept.room,
                    false => cache_room(end, self.limit),
                };
                let empty = new.each_ref().map(|new| new.empty(room));
                match held {
                    None => empty,
                    Some(held) => pairwise(empty, held, |grown, old| {
                        grown.written(0, old.tokens(0..start))
                    }),
                }
            }
        };
        let written = pairwise(buffers, new, |buffer, new| buffer.written(start, new));
        let seen = written.each_ref().map(|buffer| buffer.tokens(0..end));
        self.buffers = Some(written);
        seen
    }

    fn take_state(&mut self) -> Option<DeltaState> {
        self.state.take()
    }

    fn keep_state(&mut self, state: DeltaState) {
        self.state = Some(state);
    }
}

impl LayerCache {
    /// Tokens that there is memory for.
    fn room(&self) -> usize {
        let buffers = self.buffers.as_ref();
        buffers.map_or(0, |[rows, _]| rows.dims()[2])
    }

    /// Sequences held.
    fn batch(&self) -> Option<usize> {
        match (&self.buffers, &self.state) {
            (Some([rows, _]), _) => Some(rows.dims()[0]),
            (None, Some(state)) => Some(state.state.dims()[0]),
            (None, None) => None,
        }
    }
}

/// Both kinds of rows, each with its counterpart.
fn pairwise(
    [a, b]: [KeptRows; 2],
    [x, y]: [KeptRows; 2],
    of: impl Fn(KeptRows, KeptRows) -> KeptRows,
) -> [KeptRows; 2] {
    [of(a, x), of(b, y)]
}
