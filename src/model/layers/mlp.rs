//! The feed-forward half of a layer.
//!
//! Letters: `b` batch, `t` tokens, `f` features of the model, `m` features inside.

use burn::{
    module::Module,
    tensor::{
        Tensor,
        activation::{gelu, gelu_approximate, relu, silu},
    },
};
use serde::Serialize;

use super::linear::Linear;

/// The function between the matrices of an MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Activation {
    /// `x · sigmoid(x)`.
    Silu,
    /// `x/2 · (1 + erf(x/√2))`.
    Gelu,
    /// The same with a `tanh` in place of the error function: `gelu_pytorch_tanh`, `gelu_new`.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)²`.
    ReluSquared,
}

impl Activation {
    /// Each value of `x` through the function.
    pub fn forward<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Silu => silu(x),
            Self::Gelu => gelu(x),
            Self::GeluTanh => gelu_approximate(x),
            Self::Relu => relu(x),
            Self::ReluSquared => {
                let x = relu(x);
                x.clone() * x
            }
        }
    }
}

/// The feed-forward half of a layer.
#[derive(Module, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "a layer has one, and Burn's modules are not boxed"
)]
pub enum Mlp {
    /// `down(activation(gate(x)) · up(x))`.
    Gated(GatedMlp),
    /// The same, gate and up in one matrix.
    Fused(FusedMlp),
    /// `down(activation(up(x)))`.
    Plain(PlainMlp),
}

/// `down(activation(gate(x)) · up(x))`.
#[derive(Module, Debug)]
pub struct GatedMlp {
    /// `[m, f]`.
    pub gate_proj: Linear,
    /// `[m, f]`.
    pub up_proj: Linear,
    /// `[f, m]`.
    pub down_proj: Linear,
    /// After the gate.
    #[module(skip)]
    pub activation: Activation,
}

/// `down(activation(gate(x)) · up(x))`, gate and up in one matrix.
#[derive(Module, Debug)]
pub struct FusedMlp {
    /// `[2·m, f]`, the rows of the gate first.
    pub gate_up_proj: Linear,
    /// `[f, m]`.
    pub down_proj: Linear,
    /// After the gate.
    #[module(skip)]
    pub activation: Activation,
}

/// `down(activation(up(x)))`.
#[derive(Module, Debug)]
pub struct PlainMlp {
    /// `[m, f]`.
    pub up_proj: Linear,
    /// `[f, m]`.
    pub down_proj: Linear,
    /// After `up`.
    #[module(skip)]
    pub activation: Activation,
}

impl Mlp {
    /// `x` `[b, t, f]` to `[b, t, f]`.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        match self {
            Self::Gated(mlp) => {
                let gate = mlp.activation.forward(mlp.gate_proj.forward(x.clone()));
                mlp.down_proj.forward(gate * mlp.up_proj.forward(x))
            }
            Self::Fused(mlp) => {
                let both = mlp.gate_up_proj.forward(x);
                let [_, _, rows] = both.dims();
                let gate = mlp.activation.forward(both.clone().narrow(2, 0, rows / 2));
                let up = both.narrow(2, rows / 2, rows / 2);
                mlp.down_proj.forward(gate * up)
            }
            Self::Plain(mlp) => {
                let up = mlp.activation.forward(mlp.up_proj.forward(x));
                mlp.down_proj.forward(up)
            }
        }
    }

    /// Its matrices, in the order in which a token meets them.
    pub fn linears(&self) -> Vec<&Linear> {
        match self {
            Self::Gated(mlp) => vec![&mlp.gate_proj, &mlp.up_proj, &mlp.down_proj],
            Self::Fused(mlp) => vec![&mlp.gate_up_proj, &mlp.down_proj],
            Self::Plain(mlp) => vec![&mlp.up_proj, &mlp.down_proj],
        }
    }
}
