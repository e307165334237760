//! The function between the matrices of an MLP, and what it lets through.

use crate::arith::{
    exp::{exp, tanh},
    lanes::for_processors,
};

/// Values that are computed together.
const ROW: usize = 1 << 12;

/// A function of one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bend {
    /// `x · sigmoid(x)`.
    Silu,
    /// `x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))`.
    GeluTanh,
}

impl Bend {
    /// `gate` becomes `bend(gate) · up`.
    ///
    /// # Panics
    ///
    /// When there are more of one than of the other.
    pub fn gate(self, gate: &mut [f32], up: &[f32]) {
        assert_eq!(gate.len(), up.len(), "values of gate and up");
        super::rows(gate, ROW, |nth, gate| {
            let up = &up[nth * ROW..][..gate.len()];
            match self {
                Self::Silu => silu(gate, up),
                Self::GeluTanh => gelu(gate, up),
            }
        });
    }
}

for_processors! {
    fn silu(gate: &mut [f32], up: &[f32]) {
        for (gate, up) in gate.iter_mut().zip(up) {
            let x = *gate;
            *gate = x / (1.0 + exp(-x)) * up;
        }
    }
}

for_processors! {
    fn gelu(gate: &mut [f32], up: &[f32]) {
        /// `√(2/π)`.
        const ROOT: f32 = 0.797_884_6;
        for (gate, up) in gate.iter_mut().zip(up) {
            let x = *gate;
            let inside = ROOT * (x + 0.044_715 * x * x * x);
            *gate = 0.5 * x * (1.0 + tanh(inside)) * up;
        }
    }
}
