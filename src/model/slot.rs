//! A place in a model that a tensor of the checkpoint goes to.

use core::fmt;

/// A place in a model, named as the checkpoint names its tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Name in the checkpoint: `model.layers.0.mlp.up_proj.weight`.
    pub name: String,
    /// Shape in the checkpoint; `[out, in]` for matrices.
    pub shape: Vec<usize>,
    /// What it is for: the plan's defaults go by this.
    pub role: Role,
}

/// What a tensor is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Role {
    /// A matrix that multiplies activations: quantized when a quantization is asked for.
    Linear,
    /// The matrix that makes logits: left dense unless a rule names it.
    Head,
    /// A table of rows looked up by token: left dense unless a rule names it.
    Embedding,
    /// The scale or shift of a normalisation: never quantized.
    Norm,
    /// A vector added to a product: never quantized.
    Bias,
    /// Anything else: never quantized.
    Other,
}

impl Role {
    /// `"linear"`, `"head"`, …
    pub const fn name(self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::Head => "head",
            Self::Embedding => "embedding",
            Self::Norm => "norm",
            Self::Bias => "bias",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Slot {
    /// A slot of any shape.
    pub fn new(name: impl Into<String>, shape: impl Into<Vec<usize>>, role: Role) -> Self {
        Self {
            name: name.into(),
            shape: shape.into(),
            role,
        }
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
