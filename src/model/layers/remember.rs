//! What a layer remembers of the tokens before those that pass through it.
//!
//! Letters: `b` batch, `n` heads, `t` new tokens, `s` all tokens, `d` features of a row.

use burn::tensor::Tensor;

/// What a layer remembers of the tokens before those that pass through it.
///
/// [`LayerCache`](super::LayerCache) remembers all of them, [`NoMemory`] none; a memory of another kind implements this
/// trait.
pub trait Remember {
    /// Takes two kinds of rows of the new tokens, such as keys and values, each `[b, n, t, d]` with an `n` and a `d` of
    /// its kind; returns those of all tokens `[b, n, s, d]`, the new ones last.
    fn append(&mut self, new: [Tensor<4>; 2]) -> [Tensor<4>; 2];
}

/// Remembers nothing: the new tokens are all tokens.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoMemory;

impl Remember for NoMemory {
    fn append(&mut self, new: [Tensor<4>; 2]) -> [Tensor<4>; 2] {
        new
    }
}
