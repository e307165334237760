//! One layer: attention and MLP, each behind a norm and beside a shortcut.
//!
//! Letters: `b` batch, `kv` key and value heads, `t` new tokens, `s` all tokens, `d` features of a head,
//! `f` features of the model.

use burn::{module::Module, tensor::Tensor};

use super::mlp::Mlp;
use crate::model::{attention::Attention, norm::RmsNorm, rope::Rotation};

/// A layer.
#[derive(Module, Debug)]
pub struct Block {
    /// Over `[f]`.
    pub attention_norm: RmsNorm,
    /// Looks at the tokens so far.
    pub attention: Attention,
    /// Over `[f]`.
    pub mlp_norm: RmsNorm,
    /// Looks at each token alone.
    pub mlp: Mlp,
}

impl Block {
    /// `x` `[b, t, f]` to `[b, t, f]`.
    ///
    /// `remember` turns the keys and values `[b, kv, t, d]` of the new tokens into those of all tokens
    /// `[b, kv, s, d]`.
    pub fn forward(
        &self,
        x: Tensor<3>,
        rotation: &Rotation,
        remember: impl FnOnce(Tensor<4>, Tensor<4>) -> (Tensor<4>, Tensor<4>),
    ) -> Tensor<3> {
        let y = self.attention_norm.forward(x.clone());
        let x = x + self.attention.forward(y, rotation, remember);

        let y = self.mlp_norm.forward(x.clone());
        x + self.mlp.forward(y)
    }
}
