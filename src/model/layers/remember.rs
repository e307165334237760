//! What a layer remembers of the tokens before those that pass through it.
//!
//! Letters: `b` batch, `n` heads, `t` new tokens, `s` all tokens, `d` features of a row; of a delta layer `h` heads, `k`
//! features of a key, `v` of a value, `c` channels and `w` tokens of its convolution.

use burn::tensor::Tensor;

use super::kept_rows::KeptRows;

/// What a layer remembers of the tokens before those that pass through it.
///
/// [`LayerCache`](super::LayerCache) remembers all of them, [`NoMemory`] none; a memory of another kind implements this
/// trait.
pub trait Remember {
    /// Takes two kinds of rows of the new tokens, such as keys and values, each `[b, n, t, d]` with an `n` and a `d` of
    /// its kind; returns those of all tokens `[b, n, s, d]`, the new ones last, in the type that they are kept in.
    fn append(&mut self, new: [Tensor<4>; 2]) -> [KeptRows; 2];

    /// The state after the tokens before, taken out; `None` before the first token.
    fn take_state(&mut self) -> Option<DeltaState>;

    /// Keeps the state after the new tokens.
    fn keep_state(&mut self, state: DeltaState);
}

/// What a delta layer knows of the tokens before.
#[derive(Debug, Clone)]
pub struct DeltaState {
    /// `[b, h, k, v]`, in f32 whatever type activations are in: each token rounds it once more.
    pub state: Tensor<4>,
    /// `[b, w - 1, c]`, the last tokens before the convolution.
    pub tokens: Tensor<3>,
}

/// Remembers nothing: the new tokens are all tokens.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoMemory;

impl Remember for NoMemory {
    fn append(&mut self, new: [Tensor<4>; 2]) -> [KeptRows; 2] {
        new.map(KeptRows::Plain)
    }

    fn take_state(&mut self) -> Option<DeltaState> {
        None
    }

    fn keep_state(&mut self, _: DeltaState) {}
}
