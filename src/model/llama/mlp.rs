//! The feed-forward half of a layer.
//!
//! Letters: `b` batch, `t` tokens, `f` features of the model, `m` features inside.

use burn::{
    module::Module,
    tensor::{Tensor, activation::silu},
};

use crate::model::linear::Linear;

/// `down(silu(gate(x)) · up(x))`.
#[derive(Module, Debug)]
pub struct Mlp {
    /// `[m, f]`.
    pub gate_proj: Linear,
    /// `[m, f]`.
    pub up_proj: Linear,
    /// `[f, m]`.
    pub down_proj: Linear,
}

impl Mlp {
    /// `x` `[b, t, f]` to `[b, t, f]`.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let gate = silu(self.gate_proj.forward(x.clone()));
        self.down_proj.forward(gate * self.up_proj.forward(x))
    }
}
