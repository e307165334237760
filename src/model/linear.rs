//! A linear layer whose weight is dense or packed, behind one forward.

use burn::{
    module::{Module, Param},
    tensor::Tensor,
};

use crate::quant::{PackedWeight, ops};

/// A matrix `[out, in]`, as the checkpoint orients it.
#[derive(Module, Debug)]
pub enum Matrix {
    /// Plain numbers.
    Dense(Param<Tensor<2>>),
    /// Packed words.
    Packed(PackedWeight),
}

impl Matrix {
    /// `x` `[m, in]` times the transposed matrix: `[m, out]`.
    pub fn product(&self, x: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Dense(weight) => x.matmul(weight.val().transpose()),
            Self::Packed(packed) => ops::linear(x, packed),
        }
    }

    /// `[out, in]`.
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Self::Dense(weight) => weight.val().dims(),
            Self::Packed(packed) => packed.layout().shape,
        }
    }
}

/// `y = x Wᵀ + b`.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Matrix,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
}

impl Linear {
    /// From a weight `[out, in]` and a bias `[out]`.
    pub fn new(weight: Matrix, bias: Option<Param<Tensor<1>>>) -> Self {
        Self { weight, bias }
    }

    /// `x` `[.., in]` to `[.., out]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let mut dims = x.dims();
        let [out, r#in] = self.weight.shape();
        let rows = dims[..D - 1].iter().product();
        dims[D - 1] = out;

        let y = self.weight.product(x.reshape([rows, r#in]));
        let y = match &self.bias {
            Some(bias) => y + bias.val().unsqueeze(),
            None => y,
        };
        y.reshape(dims)
    }
}
