//! The modules that adapters can change.

use super::{
    layers::{Adapter, Embedding, Linear, Matrix, Place},
    slot::Role,
};

/// A module that adapters can change.
#[derive(Debug)]
pub enum Adaptable<'m> {
    /// A linear layer.
    Linear(&'m mut Linear),
    /// A table of rows looked up by token.
    Embedding(&'m mut Embedding),
}

impl Adaptable<'_> {
    /// The name of the module in the checkpoint: `model.layers.0.self_attn.q_proj`. Empty for a module that was not built from
    /// [`Weights`](super::Weights).
    pub fn path(&self) -> &str {
        &self.place().path
    }

    /// The purpose of the matrix.
    pub fn role(&self) -> Role {
        self.place().role
    }

    /// The matrix: `[out, in]`, or `[vocabulary, features]`.
    pub fn matrix(&self) -> &Matrix {
        match self {
            Self::Linear(linear) => &linear.weight,
            Self::Embedding(embedding) => &embedding.table,
        }
    }

    /// Its adapters.
    pub fn adapters(&mut self) -> &mut Vec<Adapter> {
        match self {
            Self::Linear(linear) => &mut linear.adapters,
            Self::Embedding(embedding) => &mut embedding.adapters,
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
        }
    }
}
