//! A linear layer whose weight is dense or packed, behind one forward.

use burn::{
    module::{Module, Param},
    tensor::{FloatDType, Int, Tensor},
};

use crate::model::stream::{Ring, StreamedWeight};
use crate::quant::{PackedWeight, ops};

/// A matrix `[out, in]`, as the checkpoint orients it.
#[derive(Module, Debug)]
pub enum Matrix {
    /// Plain numbers.
    Dense(Param<Tensor<2>>),
    /// Packed words.
    Packed(PackedWeight),
    /// Either, on the device only while it is multiplied.
    Streamed(StreamedWeight),
    /// Rows one after another, where a device has no allocation large enough for all of them.
    Split(Vec<Matrix>),
}

impl Matrix {
    /// One matrix of rows that follow each other.
    pub(crate) fn of_parts(parts: impl Iterator<Item = Self>) -> Self {
        let mut parts: Vec<Self> = parts.collect();
        match parts.len() {
            1 => parts.remove(0),
            _ => Self::Split(parts),
        }
    }

    /// `x` `[m, in]` times the transposed matrix: `[m, out]`.
    pub fn product(&self, x: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Dense(weight) => x.matmul(weight.val().transpose()),
            Self::Packed(packed) => ops::linear(x, packed),
            Self::Streamed(weight) => weight.product(x),
            Self::Split(parts) => {
                let parts = parts.iter().map(|part| part.product(x.clone()));
                Tensor::cat(parts.collect(), 1)
            }
        }
    }

    /// The rows that `ids` `[m]` name: `[m, in]`, those of packed words in `dtype`.
    pub fn rows(&self, ids: Tensor<1, Int>, dtype: FloatDType) -> Tensor<2> {
        let parts = match self {
            Self::Dense(weight) => return weight.val().select(0, ids),
            Self::Packed(packed) => return ops::rows(ids, packed, dtype),
            Self::Streamed(weight) => return weight.rows(ids, dtype),
            Self::Split(parts) => parts,
        };
        let mut first = 0;
        let found = parts.iter().map(|part| {
            let [rows, _] = part.shape();
            let local = ids.clone() - first as i64;
            first += rows;
            // Every part is asked for every row, and answers with some row of its own for those it has not.
            let elsewhere = local
                .clone()
                .lower_elem(0)
                .bool_or(local.clone().greater_equal_elem(rows as i64));
            let found = part.rows(local.clamp(0, rows as i64 - 1), dtype);
            found.mask_fill(elsewhere.unsqueeze_dim(1), 0)
        });
        found
            .reduce(|all, part| all + part)
            .expect("a split matrix has parts")
    }

    /// What brings it to its device; `None` where it is there.
    pub fn ring(&self) -> Option<&Ring> {
        match self {
            Self::Streamed(weight) => Some(weight.ring()),
            Self::Split(parts) => parts.first()?.ring(),
            Self::Dense(_) | Self::Packed(_) => None,
        }
    }

    /// `[out, in]`.
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Self::Dense(weight) => weight.val().dims(),
            Self::Packed(packed) => packed.layout().shape,
            Self::Streamed(weight) => weight.shape(),
            Self::Split(parts) => {
                let [_, cols] = parts[0].shape();
                [parts.iter().map(|part| part.shape()[0]).sum(), cols]
            }
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
