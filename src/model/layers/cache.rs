//! Keys and values of the tokens seen so far, so that a new token costs one token.
//!
//! Letters: `b` batch, `kv` key and value heads, `t` new tokens, `s` all tokens, `d` features of a head.

use burn::tensor::{Tensor, s};

/// Room for this many tokens is made at first; it doubles after that.
const TOKENS_MIN: usize = 64;

/// Keys and values of every layer, for one batch of sequences of equal length.
///
/// Buffers grow by doubling up to [`limit`](Self::limit) and are written in place: a token costs the
/// copy of its own keys and values, not of everyone's.
#[derive(Debug)]
pub struct Cache {
    layers: Vec<LayerCache>,
    /// Tokens in every layer.
    len: usize,
    /// Tokens at most.
    limit: usize,
}

/// Keys and values of one layer.
#[derive(Debug, Default)]
pub struct LayerCache {
    /// Keys and values `[b, kv, room, d]`, of which the first `len` tokens are written.
    buffers: Option<[Tensor<4>; 2]>,
    /// Tokens written.
    len: usize,
    /// Tokens at most.
    limit: usize,
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
            len: 0,
            limit,
        }
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
        *self = Self::new(self.layers.len(), self.limit);
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
        self.len += t;
        Ok(&mut self.layers)
    }
}

impl LayerCache {
    /// Adds keys and values `[b, kv, t, d]`; all of them so far `[b, kv, s, d]`.
    pub fn append(&mut self, keys: Tensor<4>, values: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let [b, kv, t, d] = keys.dims();
        let (start, end) = (self.len, self.len + t);
        self.len = end;

        // Taken out, not cloned: a buffer with a single owner is written in place.
        let [all_keys, all_values] = match self.buffers.take() {
            Some(buffers) if end <= buffers[0].dims()[2] => buffers,
            held => {
                let room = end.next_power_of_two().max(TOKENS_MIN).min(self.limit);
                let grown =
                    |new: &Tensor<4>| Tensor::zeros([b, kv, room, d], (&new.device(), new.dtype()));
                let empty = [grown(&keys), grown(&values)];
                match held {
                    None => empty,
                    Some([old_keys, old_values]) => {
                        let [grown_keys, grown_values] = empty;
                        let old = |buffer: Tensor<4>| buffer.narrow(2, 0, start);
                        [
                            grown_keys.slice_assign(s![.., .., 0..start, ..], old(old_keys)),
                            grown_values.slice_assign(s![.., .., 0..start, ..], old(old_values)),
                        ]
                    }
                }
            }
        };
        let all_keys = all_keys.slice_assign(s![.., .., start..end, ..], keys);
        let all_values = all_values.slice_assign(s![.., .., start..end, ..], values);

        let seen = (
            all_keys.clone().narrow(2, 0, end),
            all_values.clone().narrow(2, 0, end),
        );
        self.buffers = Some([all_keys, all_values]);
        seen
    }

    /// Sequences held.
    fn batch(&self) -> Option<usize> {
        let [keys, _] = self.buffers.as_ref()?;
        Some(keys.dims()[0])
    }
}
