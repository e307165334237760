//! The half of a layer that looks at other tokens.
//!
//! Letters: `b` batch, `t` new tokens, `f` features of the model.

use burn::{module::Module, tensor::Tensor};

use super::{
    attention::{Attention, LentKeys},
    delta::Delta,
    latent::Latent,
    linear::Linear,
    remember::Remember,
    rope::Rotation,
    sight::Sight,
};

/// The half of a layer that looks at other tokens.
#[derive(Module, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "a layer has one, and Burn's modules are not boxed"
)]
pub enum Mixer {
    /// Attention whose query heads share keys and values in groups.
    Attention(Attention),
    /// Attention whose keys and values are unfolded from one small row a token.
    Latent(Latent),
    /// A state instead of keys and values.
    Delta(Delta),
}

impl Mixer {
    /// `x` `[b, t, f]` to `[b, t, f]`.
    ///
    /// Grouped heads are not rotated where there is no `rotation`. `memory` knows the tokens before the new ones,
    /// `lent` the keys of layers before, `sight` which tokens are of one document.
    ///
    /// # Panics
    ///
    /// For latent attention without a `rotation`, and when a layer that lends keys was not run in this pass.
    pub fn forward(
        &self,
        x: Tensor<3>,
        rotation: Option<&Rotation>,
        lent: &mut LentKeys,
        sight: &Sight,
        memory: &mut impl Remember,
    ) -> Tensor<3> {
        match self {
            Self::Attention(attention) => attention.forward(x, rotation, lent, sight, memory),
            Self::Latent(latent) => {
                let rotation = rotation.expect("a part of latent heads is rotated");
                latent.forward(x, rotation, sight, memory)
            }
            Self::Delta(delta) => delta.forward(x, sight, memory),
        }
    }

    /// Its matrices, in the order in which a token meets them.
    pub fn linears(&self) -> Vec<&Linear> {
        match self {
            Self::Attention(attention) => attention.linears(),
            Self::Latent(latent) => latent.linears(),
            Self::Delta(delta) => delta.linears(),
        }
    }

    /// The same, to be changed.
    pub(crate) fn linears_mut(&mut self) -> Vec<&mut Linear> {
        match self {
            Self::Attention(attention) => attention.linears_mut(),
            Self::Latent(latent) => latent.linears_mut(),
            Self::Delta(delta) => delta.linears_mut(),
        }
    }

    /// Its last matrix.
    pub(crate) const fn out(&self) -> &Linear {
        match self {
            Self::Attention(attention) => &attention.o_proj,
            Self::Latent(latent) => &latent.o_proj,
            Self::Delta(delta) => &delta.out_proj,
        }
    }

    /// Its attention, where it is grouped.
    pub const fn attention(&self) -> Option<&Attention> {
        match self {
            Self::Attention(attention) => Some(attention),
            Self::Latent(_) | Self::Delta(_) => None,
        }
    }
}
