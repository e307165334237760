//! A linear layer: a matrix, a bias, and the changes that adapters make.

use std::sync::Arc;

use burn::{
    module::{Module, Param},
    tensor::{FloatDType, Tensor},
};

use super::{
    adapter::{Adapter, LowRank, changed_bias},
    dropout::Dropout,
    matrix::Matrix,
};
use crate::{collective::Together, config::Role};

/// `y = x Wᵀ + b`, and the changes that adapters make.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Matrix,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
    /// Changes of weight and bias, each added for itself.
    pub adapters: Vec<Adapter>,
    /// The name of the module in the checkpoint, and the purpose of its weight.
    #[module(skip)]
    pub(crate) place: Place,
    /// Whether other ranks have a part of it.
    #[module(skip)]
    pub(crate) summand: Summand,
}

/// What the product of a matrix is, some of whose columns other ranks have.
#[derive(Debug, Clone, Default)]
pub(crate) enum Summand {
    /// All of the product: no other rank has a part.
    #[default]
    Whole,
    /// A part, to which those of the other ranks are added.
    Summed(Together),
    /// A part, to which somebody else adds the others; one rank alone adds the bias.
    Part { adds_bias: bool },
}

/// Where a module is in the checkpoint, and the purpose of its matrix. Its names are empty where nobody has named it.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The name in the checkpoint: `model.layers.0.self_attn.q_proj`.
    pub(crate) path: Arc<str>,
    /// The name in transformers, which adapters of peft have.
    pub(crate) module: Arc<str>,
    pub(crate) role: Role,
    /// Whether the checkpoint has the matrix as `[in, out]`.
    pub(crate) turned: bool,
}

impl Place {
    /// A module that has one name everywhere.
    pub(crate) fn new(path: &str, role: Role) -> Self {
        Self {
            path: path.into(),
            module: path.into(),
            role,
            turned: false,
        }
    }
}

impl Linear {
    /// From a weight `[out, in]` and a bias `[out]`.
    pub fn new(weight: Matrix, bias: Option<Param<Tensor<1>>>) -> Self {
        Self {
            weight,
            bias,
            adapters: Vec::new(),
            place: Place::new("", Role::Linear),
            summand: Summand::Whole,
        }
    }

    /// The same module under the name that adapters know it by.
    pub(crate) fn named(self, place: Place) -> Self {
        Self { place, ..self }
    }

    /// The dropouts of its adapters.
    pub(crate) fn dropouts(&self) -> impl Iterator<Item = &Dropout> {
        let factors = self.adapters.iter();
        let factors = factors.filter_map(|adapter| adapter.low_rank.as_ref());
        factors.filter_map(|factors| factors.dropout.as_ref())
    }

    /// Those that are trained, to be changed.
    pub(crate) fn dropouts_mut(&mut self) -> impl Iterator<Item = &mut Dropout> {
        let factors = self.adapters.iter_mut();
        let factors = factors.filter_map(|adapter| adapter.low_rank.as_mut());
        factors.filter_map(LowRank::dropout_mut)
    }

    /// All of the weight with the changes of adapters, dense in `dtype`: `[out, in]`.
    pub fn to_dense(&self, dtype: FloatDType) -> Tensor<2> {
        let dense = self.weight.to_dense(dtype).cast(dtype);
        let changes = self.adapters.iter();
        let changes = changes.filter_map(|adapter| adapter.matrix(&dense));
        changes.fold(dense.clone(), |changed, change| changed + change)
    }

    /// The bias with the changes of adapters, `[out]`.
    pub(crate) fn changed_bias(&self) -> Option<Tensor<1>> {
        changed_bias(self.bias.as_ref(), &self.adapters)
    }

    /// `x` `[m, in]` times the matrix, with the changes of adapters: `[m, out]`.
    fn changed_product(&self, x: Tensor<2>) -> Tensor<2> {
        let product = self.weight.product(x.clone());
        self.with_changes(&x, product)
    }

    /// `product` `[m, out]` of `x` `[m, in]` with the matrix alone, and the changes of adapters.
    pub(super) fn with_changes(&self, x: &Tensor<2>, product: Tensor<2>) -> Tensor<2> {
        let changes = self.adapters.iter();
        let changes = changes.filter_map(|adapter| adapter.product(&self.weight, x, &product));
        changes.fold(product.clone(), |y, change| y + change)
    }

    /// `x` `[.., in]` to `[.., out]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let mut dims = x.dims();
        let [out, r#in] = self.weight.shape();
        let rows = dims[..D - 1].iter().product();
        dims[D - 1] = out;

        let x = x.reshape([rows, r#in]);
        let y = match self.adapters.is_empty() {
            true => self.weight.product(x),
            false => self.changed_product(x),
        };
        let (y, bias) = match &self.summand {
            Summand::Whole | Summand::Part { adds_bias: true } => (y, self.changed_bias()),
            Summand::Part { adds_bias: false } => (y, None),
            Summand::Summed(together) => (together.sum(y), self.changed_bias()),
        };
        let y = match bias {
            Some(bias) => {
                let dtype = y.dtype();
                y + bias.cast(dtype).unsqueeze()
            }
            None => y,
        };
        y.reshape(dims)
    }
}
