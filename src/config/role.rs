//! The purpose of a tensor, as rules name it.

use core::fmt;

/// The purpose of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Role {
    /// A matrix that multiplies activations: quantized when a quantization is asked for.
    Linear,
    /// The matrices of the experts of a layer: quantized as [`Linear`](Self::Linear) ones are.
    Expert,
    /// A matrix that chooses experts, or the gate of the MLP beside them: left dense unless a rule names it.
    Router,
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
    /// Every role.
    pub const ALL: [Self; 8] = [
        Self::Linear,
        Self::Expert,
        Self::Router,
        Self::Head,
        Self::Embedding,
        Self::Norm,
        Self::Bias,
        Self::Other,
    ];

    /// `"linear"`, `"head"`, …
    pub const fn name(self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::Expert => "expert",
            Self::Router => "router",
            Self::Head => "head",
            Self::Embedding => "embedding",
            Self::Norm => "norm",
            Self::Bias => "bias",
            Self::Other => "other",
        }
    }

    /// Whether its tensors are matrices that can be quantized.
    pub const fn is_matrix(self) -> bool {
        matches!(
            self,
            Self::Linear | Self::Expert | Self::Router | Self::Head | Self::Embedding
        )
    }

    /// Whether its matrices are quantized when no rule names them.
    pub const fn is_quantized_by_default(self) -> bool {
        matches!(self, Self::Linear | Self::Expert)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
