//! The modules that adapters can change.

use burn::{
    module::Param,
    tensor::{Device, Tensor},
};

use super::{
    layers::{Adapter, Embedding, Linear, Matrix, Norm, Place},
    slot::Role,
};

/// A module that adapters can change.
#[derive(Debug)]
pub enum Adaptable<'m> {
    /// A linear layer.
    Linear(&'m mut Linear),
    /// A table of rows looked up by token.
    Embedding(&'m mut Embedding),
    /// A norm, which has no matrix for factors: it is trained whole.
    Norm(&'m mut Norm),
}

impl Adaptable<'_> {
    /// The name of the module in the checkpoint: `model.layers.0.self_attn.q_proj`. Empty for a module that was not built from
    /// [`Weights`](super::Weights).
    pub fn path(&self) -> &str {
        &self.place().path
    }

    /// The name of the module in transformers, which adapters of peft have: `model.language_model.layers.0.self_attn.q_proj`. The
    /// path, where nobody has said otherwise.
    pub fn module(&self) -> &str {
        &self.place().module
    }

    /// The purpose of its weight.
    pub fn role(&self) -> Role {
        self.place().role
    }

    /// The matrix: `[out, in]`, or `[vocabulary, features]`; a norm has none.
    pub fn matrix(&self) -> Option<&Matrix> {
        match self {
            Self::Linear(linear) => Some(&linear.weight),
            Self::Embedding(embedding) => Some(&embedding.table),
            Self::Norm(_) => None,
        }
    }

    /// Whether the checkpoint has its matrix as `[in, out]`.
    pub fn is_turned(&self) -> bool {
        self.place().turned
    }

    /// The shape of its weight: that of the matrix, or of the scale of a norm.
    pub fn shape(&self) -> Vec<usize> {
        match self {
            Self::Norm(norm) => norm.shape.clone(),
            Self::Linear(Linear { weight: matrix, .. })
            | Self::Embedding(Embedding { table: matrix, .. }) => matrix.shape().to_vec(),
        }
    }

    /// Where it is, whether or not gradients are recorded there.
    pub fn device(&self) -> Device {
        match self {
            Self::Norm(norm) => norm.device(),
            Self::Linear(Linear { weight: matrix, .. })
            | Self::Embedding(Embedding { table: matrix, .. }) => matrix.device(),
        }
    }

    /// The bias, where it has one.
    pub fn bias(&self) -> Option<&Param<Tensor<1>>> {
        match self {
            Self::Linear(linear) => linear.bias.as_ref(),
            Self::Embedding(_) => None,
            Self::Norm(norm) => norm.bias.as_ref(),
        }
    }

    /// Its adapters.
    pub fn adapters(&mut self) -> &mut Vec<Adapter> {
        match self {
            Self::Linear(linear) => &mut linear.adapters,
            Self::Embedding(embedding) => &mut embedding.adapters,
            Self::Norm(norm) => &mut norm.adapters,
        }
    }

    /// Whether its matrix is a table of rows.
    pub const fn is_table(&self) -> bool {
        matches!(self, Self::Embedding(_))
    }

    fn place(&self) -> &Place {
        match self {
            Self::Linear(linear) => &linear.place,
            Self::Embedding(embedding) => &embedding.place,
            Self::Norm(norm) => &norm.place,
        }
    }
}
