//! A place in a model that values of the checkpoint go to.

use core::ops::Range;

use serde::{Deserialize, Serialize};

pub use crate::config::Role;
use crate::{
    config::{Policy, can_be_packed},
    quant::QuantSpec,
};

/// The module that transformers calls the head of a model, whose weight has no tensor of its own where it is the
/// embedding's.
pub(crate) const TIED_HEAD: &str = "lm_head";

/// A place in a model, named as the checkpoint names its tensor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// Its name: `model.layers.0.mlp.up_proj.weight`.
    pub name: String,
    /// Its shape; `[out, in]` for matrices, `[experts, out, in]` for stacks of them.
    pub shape: Vec<usize>,
    /// The purpose that decides about its defaults.
    pub role: Role,
    /// Where its values come from: pieces of stored tensors, one after another along the rows. The tensor of
    /// the slot's own name, unless a constructor says otherwise.
    pub from: Vec<Origin>,
}

/// Some rows of a stored tensor that become rows of a slot.
///
/// Rows count over all axes but the last: a tensor `[experts, out, in]` has `experts * out` of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The name of the tensor in the checkpoint.
    pub tensor: String,
    /// The stored rows, `None` for all of them.
    pub rows: Option<Range<usize>>,
    /// Whether the tensor is stored `[in, out]`: its rows become columns of the slot.
    pub transposed: bool,
}

impl Origin {
    /// All of the tensor of this name, as it is stored.
    pub fn whole(tensor: impl Into<String>) -> Self {
        Self {
            tensor: tensor.into(),
            rows: None,
            transposed: false,
        }
    }

    /// Some stored rows of it.
    pub fn rows(self, rows: Range<usize>) -> Self {
        Self {
            rows: Some(rows),
            ..self
        }
    }

    /// Whether it is all of the tensor, as it is stored.
    pub fn is_whole(&self) -> bool {
        self.rows.is_none() && !self.transposed
    }

    /// Stored as `[in, out]`.
    pub fn transposed(self) -> Self {
        Self {
            transposed: true,
            ..self
        }
    }
}

impl Slot {
    /// A slot of any shape.
    pub fn new(name: impl Into<String>, shape: impl Into<Vec<usize>>, role: Role) -> Self {
        let name = name.into();
        Self {
            from: vec![Origin::whole(name.clone())],
            name,
            shape: shape.into(),
            role,
        }
    }

    /// The same slot, its values taken from other tensors than the one of its name.
    pub fn made_of(self, from: impl IntoIterator<Item = Origin>) -> Self {
        Self {
            from: from.into_iter().collect(),
            ..self
        }
    }

    /// Whether it can be quantized: a matrix `[out, in]`, or the matrices `[experts, out, in]` of all experts, which are
    /// packed as one matrix `[experts * out, in]`.
    pub fn is_matrix(&self) -> bool {
        can_be_packed(self.role, &self.shape)
    }

    /// The quantization that `policy` asks for.
    pub(crate) fn quant(&self, policy: &Policy) -> QuantSpec {
        policy.choose(&self.name, self.role, &self.shape)
    }

    /// A matrix `[out, in]` that multiplies activations.
    pub fn linear(name: impl Into<String>, out: usize, r#in: usize) -> Self {
        Self::new(name, [out, r#in], Role::Linear)
    }

    /// The scale of a normalisation over `len` features.
    pub fn norm(name: impl Into<String>, len: usize) -> Self {
        Self::new(name, [len], Role::Norm)
    }

    /// A bias over `len` features.
    pub fn bias(name: impl Into<String>, len: usize) -> Self {
        Self::new(name, [len], Role::Bias)
    }
}
