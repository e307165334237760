//! How large a pass is, and the memory that it takes beside the weights.

use serde::{Deserialize, Serialize};

use crate::config::KvCacheDtype;

/// How much goes through a model at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassSize {
    /// Sequences.
    pub batch: usize,
    /// Tokens of each: of the prompt, which goes through in one pass, and of the cache.
    pub length: usize,
}

/// What a pass computes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassMeans {
    /// Bytes of a value of an activation.
    pub width: usize,
    /// What keys and values are kept in.
    pub kv_cache: KvCacheDtype,
    /// Threads that compare queries with keys in tiles, as the CPU does; without, the scores of a block of queries are in memory.
    pub tiles: Option<usize>,
}

/// The memory that a pass takes beside the weights, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassBytes {
    /// Of each layer, from the first to the last.
    pub layers: Vec<LayerPass>,
    /// Of what goes into a layer.
    pub through: u64,
    /// Of logits.
    pub head: u64,
}

/// The memory of one layer in a pass, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerPass {
    /// Of what it remembers of the tokens.
    pub cache: u64,
    /// Of the tensors that exist at once while it runs, beside what goes into it.
    pub activations: u64,
}
