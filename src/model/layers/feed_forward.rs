//! The half of a layer that looks at each token alone.

use burn::{module::Module, tensor::Tensor};

use super::{experts::Experts, linear::Linear, mlp::Mlp};

/// The half of a layer that looks at each token alone.
#[derive(Module, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "a layer has one, and Burn's modules are not boxed"
)]
pub enum FeedForward {
    /// One MLP.
    Mlp(Mlp),
    /// Some of many.
    Experts(Experts),
}

impl FeedForward {
    /// `x` `[b, t, f]` to `[b, t, f]`.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        match self {
            Self::Mlp(mlp) => mlp.forward(x),
            Self::Experts(experts) => experts.forward(x),
        }
    }

    /// Its matrices, in the order in which a token meets them.
    pub fn linears(&self) -> Vec<&Linear> {
        match self {
            Self::Mlp(mlp) => mlp.linears(),
            Self::Experts(experts) => experts.linears(),
        }
    }
}
