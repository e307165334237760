//! One layer: attention and MLP, their norms, and the shortcuts beside them.
//!
//! Letters: `b` batch, `kv` key and value heads, `t` new tokens, `s` all tokens, `d` features of a head,
//! `f` features of the model.

use burn::{module::Module, tensor::Tensor};

use super::spec::NormPlaces;
use crate::model::layers::{Attention, Linear, Mlp, Norm, Rotation};

/// A layer.
#[derive(Module, Debug)]
pub struct Block {
    /// Over `[f]`, before attention; before both halves where they run in parallel and share a norm.
    pub attention_norm: Option<Norm>,
    /// Looks at the tokens so far.
    pub attention: Attention,
    /// Over `[f]`, of what attention adds.
    pub attention_norm_after: Option<Norm>,
    /// Over `[f]`, before the MLP.
    pub mlp_norm: Option<Norm>,
    /// Looks at each token alone.
    pub mlp: Mlp,
    /// Over `[f]`, of what the MLP adds.
    pub mlp_norm_after: Option<Norm>,
    /// Where the norms are.
    #[module(skip)]
    pub places: NormPlaces,
    /// What a half adds is multiplied by it.
    #[module(skip)]
    pub residual_multiplier: Option<f64>,
    /// The rotation of its heads, by its place in [`CausalLm::ropes`](super::CausalLm::ropes); `None`: nothing turns.
    #[module(skip)]
    pub rope: Option<usize>,
}

impl Block {
    /// `x` `[b, t, f]` to `[b, t, f]`; `rotations` are those of the model at the positions of the new tokens.
    ///
    /// `remember` turns the keys and values `[b, kv, t, d]` of the new tokens into those of all tokens
    /// `[b, kv, s, d]`.
    pub fn forward(
        &self,
        x: Tensor<3>,
        rotations: &[Rotation],
        remember: impl FnOnce(Tensor<4>, Tensor<4>) -> (Tensor<4>, Tensor<4>),
    ) -> Tensor<3> {
        let rotation = self.rope.map(|rope| &rotations[rope]);
        let attention = |y| {
            let y = self.attention.forward(y, rotation, remember);
            self.added(y, self.attention_norm_after.as_ref())
        };
        let mlp = |y| self.added(self.mlp.forward(y), self.mlp_norm_after.as_ref());

        let y = normed(x.clone(), self.attention_norm.as_ref());
        match self.places {
            NormPlaces::Before | NormPlaces::After | NormPlaces::Around => {
                let x = x + attention(y);
                let y = normed(x.clone(), self.mlp_norm.as_ref());
                x + mlp(y)
            }
            NormPlaces::Parallel => x + attention(y.clone()) + mlp(y),
            NormPlaces::ParallelApart => {
                let z = normed(x.clone(), self.mlp_norm.as_ref());
                x + attention(y) + mlp(z)
            }
        }
    }

    /// Its matrices, in the order in which a token meets them.
    pub fn linears(&self) -> Vec<&Linear> {
        let mut linears = self.attention.linears();
        linears.extend(self.mlp.linears());
        linears
    }

    /// What a half adds to the shortcut.
    fn added(&self, y: Tensor<3>, norm: Option<&Norm>) -> Tensor<3> {
        let y = normed(y, norm);
        match self.residual_multiplier {
            Some(multiplier) => y * multiplier,
            None => y,
        }
    }
}

fn normed(x: Tensor<3>, norm: Option<&Norm>) -> Tensor<3> {
    match norm {
        Some(norm) => norm.forward(x),
        None => x,
    }
}
