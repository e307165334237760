//! The half of a layer that looks at each token alone.
//!
//! Letters: `b` batch, `t` tokens, `f` features of the model.

use burn::{module::Module, tensor::Tensor};

use super::{experts::Experts, linear::Linear, mlp::Mlp, norm::Norm};

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
    /// Both.
    Both(SideBySide),
}

/// An MLP and experts side by side (Gemma 4).
#[derive(Module, Debug)]
pub struct SideBySide {
    /// The MLP.
    pub mlp: Mlp,
    /// Over `[f]`, of what the MLP makes.
    pub mlp_norm_after: Norm,
    /// Over `[f]`, before the experts.
    pub experts_norm: Norm,
    /// The experts, whose router reads what no norm has changed.
    pub experts: Experts,
    /// Over `[f]`, of what the experts make.
    pub experts_norm_after: Norm,
}

impl FeedForward {
    /// `x` `[b, t, f]` to `[b, t, f]`; `shortcut` `[b, t, f]` is what `x` was before the norm of the layer.
    pub fn forward(&self, x: Tensor<3>, shortcut: &Tensor<3>) -> Tensor<3> {
        match self {
            Self::Mlp(mlp) => mlp.forward(x),
            Self::Experts(experts) => experts.forward(x),
            Self::Both(both) => {
                let y = both.mlp_norm_after.forward(both.mlp.forward(x));
                let x = both.experts_norm.forward(shortcut.clone());
                let z = both.experts.forward_routed(shortcut.clone(), x);
                y + both.experts_norm_after.forward(z)
            }
        }
    }

    /// Its matrices, in the order in which a token meets them.
    pub fn linears(&self) -> Vec<&Linear> {
        match self {
            Self::Mlp(mlp) => mlp.linears(),
            Self::Experts(experts) => experts.linears(),
            Self::Both(both) => {
                let mut linears = both.mlp.linears();
                linears.extend(both.experts.linears());
                linears
            }
        }
    }

    /// The same, to be changed.
    pub(crate) fn linears_mut(&mut self) -> Vec<&mut Linear> {
        match self {
            Self::Mlp(mlp) => mlp.linears_mut(),
            Self::Experts(experts) => experts.linears_mut(),
            Self::Both(both) => {
                let mut linears = both.mlp.linears_mut();
                linears.extend(both.experts.linears_mut());
                linears
            }
        }
    }
}
