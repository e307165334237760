//! What is made of each tensor of a decoder, and where in the model a walk is.

use super::{check::Unsupported, names::Part, spec::Spec};
use crate::{config::Role, model::layers::NormSpec};

/// What is made of each tensor.
pub(super) trait Visit {
    /// Of a table of rows.
    type Table;
    /// Of a matrix and its bias.
    type Matrix;
    /// Of a norm.
    type Norm;
    /// Of a tensor that is none of these.
    type Values;
    /// Why nothing can be made of one.
    type Error: From<Unsupported>;

    /// `{path}.weight` `[rows, columns]`.
    fn table(&mut self, path: String, shape: [usize; 2]) -> Result<Self::Table, Self::Error>;

    /// `{path}.weight` `[out, in]` and, with a `bias`, `{path}.bias` `[out]`.
    fn matrix(
        &mut self,
        path: String,
        role: Role,
        shape: [usize; 2],
        bias: bool,
    ) -> Result<Self::Matrix, Self::Error>;

    /// The matrix `[out, in]` of one expert and its bias, as [`matrix`](Self::matrix); `stack` is where the checkpoint has
    /// the matrices of all experts.
    fn expert(
        &mut self,
        path: String,
        _stack: Option<Stack>,
        shape: [usize; 2],
        bias: bool,
    ) -> Result<Self::Matrix, Self::Error> {
        self.matrix(path, Role::Expert, shape, bias)
    }

    /// `{path}.weight` and, where the norm has a bias, `{path}.bias`, both of `shape`.
    fn norm(
        &mut self,
        path: String,
        shape: &[usize],
        spec: NormSpec,
    ) -> Result<Self::Norm, Self::Error>;

    /// The tensor `name` of `shape`, which is never packed.
    fn values(&mut self, name: String, shape: &[usize]) -> Result<Self::Values, Self::Error>;
}

/// The tensor `[experts, out, in]` of the matrices of all experts, and `{tensor}_bias` `[experts, out]` of their biases.
pub(super) struct Stack {
    pub(super) tensor: String,
    /// The expert.
    pub(super) nth: usize,
    /// The tensor is `[experts, in, out]`.
    pub(super) transposed: bool,
}

/// A visitor in one layer.
pub(super) struct InLayer<'s, 'v, V> {
    pub(super) spec: &'s Spec,
    pub(super) nth: usize,
    pub(super) visitor: &'v mut V,
}

impl<V: Visit> InLayer<'_, '_, V> {
    /// A matrix `[out, in]` that multiplies activations.
    pub(super) fn linear(
        &mut self,
        part: Part,
        shape: [usize; 2],
        bias: bool,
    ) -> Result<V::Matrix, V::Error> {
        let path = self.path(part);
        self.visitor.matrix(path, Role::Linear, shape, bias)
    }

    /// A norm over `shape`.
    pub(super) fn norm(
        &mut self,
        part: Part,
        shape: &[usize],
        norm: NormSpec,
    ) -> Result<V::Norm, V::Error> {
        let path = self.path(part);
        self.visitor.norm(path, shape, norm)
    }

    /// A tensor of `shape` that is never packed.
    pub(super) fn values(&mut self, part: Part, shape: &[usize]) -> Result<V::Values, V::Error> {
        let name = self.path(part);
        self.visitor.values(name, shape)
    }

    /// The path of a module of the layer, or the name of a tensor.
    pub(super) fn path(&self, part: Part) -> String {
        self.spec.path(Some(self.nth), part)
    }
}
