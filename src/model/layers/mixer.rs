//! The half of a layer that looks at other tokens.
//!
//! Letters: `b` batch, `t` new tokens, `f` features of the model.

use burn::{module::Module, tensor::Tensor};

use super::{attention::Attention, linear::Linear, remember::Remember, rope::Rotation};

/// The half of a layer that looks at other tokens.
#[derive(Module, Debug)]
pub enum Mixer {
    /// Attention whose query heads share keys and values in groups.
    Attention(Attention),
}

impl Mixer {
    /// `x` `[b, t, f]` to `[b, t, f]`.
    ///
    /// Heads are not rotated where there is no `rotation`. `memory` knows the tokens before the new ones.
    pub fn forward(
        &self,
        x: Tensor<3>,
        rotation: Option<&Rotation>,
        memory: &mut impl Remember,
    ) -> Tensor<3> {
        match self {
            Self::Attention(attention) => attention.forward(x, rotation, memory),
        }
    }

    /// Its matrices, in the order in which a token meets them.
    pub fn linears(&self) -> Vec<&Linear> {
        match self {
            Self::Attention(attention) => attention.linears(),
        }
    }

    /// Its attention, where it is grouped.
    pub const fn attention(&self) -> Option<&Attention> {
        match self {
            Self::Attention(attention) => Some(attention),
        }
    }
}
