//! The feed-forward half of a layer.
//!
//! Letters: `f` features of the model, `m` features inside.

use burn::{
    module::Module,
    tensor::{
        Tensor,
        activation::{gelu, gelu_approximate, relu, sigmoid, silu},
    },
};
#[cfg(feature = "cpu")]
use firebox_kernels::layers::gate::Bend;
use serde::Serialize;

#[cfg(feature = "cpu")]
use super::host;
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

/// Gate and up are clamped: `(min(max(up, -limit), limit) + 1) · g · sigmoid(slope · g)`, where `g = min(gate, limit)`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Clamp {
    /// 7 in gpt-oss.
    pub limit: f64,
    /// 1.702 in gpt-oss.
    pub slope: f64,
}

/// How a gate lets through.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Gating {
    /// `activation(gate) · up`.
    By(Activation),
    /// [`Clamp`], without another function.
    Clamped(Clamp),
}

impl Gating {
    /// The function of the gate, where the host computes it together with the product.
    #[cfg(feature = "cpu")]
    fn bend(self) -> Option<Bend> {
        match self {
            Self::By(Activation::Silu) => Some(Bend::Silu),
            Self::By(Activation::GeluTanh) => Some(Bend::GeluTanh),
            Self::By(_) | Self::Clamped(_) => None,
        }
    }

    /// What of `up` goes through `gate`.
    fn forward<const D: usize>(self, gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
        #[cfg(feature = "cpu")]
        if let Some(bend) = self.bend()
            && host::takes(&gate)
            && host::takes(&up)
        {
            return host::gate(bend, gate, up);
        }
        match self {
            Self::By(activation) => activation.forward(gate) * up,
            Self::Clamped(Clamp { limit, slope }) => {
                let gate = gate.clamp_max(limit);
                let gate = gate.clone() * sigmoid(gate * slope);
                (up.clamp(-limit, limit) + 1.0) * gate
            }
        }
    }
}

/// The order of rows in a matrix of gate and up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GateRows {
    /// All of the gate, then all of up.
    First,
    /// One of the gate, one of up, in turn.
    Interleaved,
}

impl GateRows {
    /// `[.., 2·m]` to gate and up, `[.., m]` each.
    fn split<const D: usize>(self, both: Tensor<D>) -> [Tensor<D>; 2] {
        let mut dims = both.dims();
        dims[D - 1] /= 2;
        let m = dims[D - 1];
        match self {
            Self::First => [0, m].map(|first| both.clone().narrow(D - 1, first, m)),
            Self::Interleaved => {
                let rows = dims[..D - 1].iter().product();
                let pairs: Tensor<3> = both.reshape([rows, m, 2]);
                [0, 1].map(|side| pairs.clone().narrow(2, side, 1).reshape(dims))
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
    /// Between the matrices.
    #[module(skip)]
    pub gating: Gating,
}

/// `down(activation(gate(x)) · up(x))`, gate and up in one matrix.
#[derive(Module, Debug)]
pub struct FusedMlp {
    /// `[2·m, f]`.
    pub gate_up_proj: Linear,
    /// `[f, m]`.
    pub down_proj: Linear,
    /// Which of its rows are the gate's.
    #[module(skip)]
    pub rows: GateRows,
    /// Between the matrices.
    #[module(skip)]
    pub gating: Gating,
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
    /// `x` `[.., f]` to `[.., f]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Gated(mlp) => {
                let gate = mlp.gate_proj.forward(x.clone());
                let through = mlp.gating.forward(gate, mlp.up_proj.forward(x));
                mlp.down_proj.forward(through)
            }
            Self::Fused(mlp) => {
                let [gate, up] = mlp.rows.split(mlp.gate_up_proj.forward(x));
                mlp.down_proj.forward(mlp.gating.forward(gate, up))
            }
            Self::Plain(mlp) => {
                let up = mlp.activation.forward(mlp.up_proj.forward(x));
                mlp.down_proj.forward(up)
            }
        }
    }

    /// The matrix back to the features of the model.
    pub(crate) fn down_mut(&mut self) -> &mut Linear {
        match self {
            Self::Gated(mlp) => &mut mlp.down_proj,
            Self::Fused(mlp) => &mut mlp.down_proj,
            Self::Plain(mlp) => &mut mlp.down_proj,
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

    /// The same, to be changed.
    pub(crate) fn linears_mut(&mut self) -> Vec<&mut Linear> {
        match self {
            Self::Gated(mlp) => vec![&mut mlp.gate_proj, &mut mlp.up_proj, &mut mlp.down_proj],
            Self::Fused(mlp) => vec![&mut mlp.gate_up_proj, &mut mlp.down_proj],
            Self::Plain(mlp) => vec![&mut mlp.up_proj, &mut mlp.down_proj],
        }
    }
}
