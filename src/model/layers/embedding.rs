//! A table of rows looked up by token, dense or packed.

use burn::{
    module::Module,
    tensor::{Int, Tensor},
};

use super::linear::Matrix;
use crate::target::{DType, ToBurn};

/// A table `[vocabulary, features]`.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[vocabulary, features]`.
    pub table: Matrix,
    #[module(skip)]
    dtype: DType,
}

impl Embedding {
    /// From a table `[vocabulary, features]`; packed rows are unpacked to `dtype`.
    pub fn new(table: Matrix, dtype: DType) -> Self {
        Self { table, dtype }
    }

    /// `ids` `[batch, tokens]` to `[batch, tokens, features]`. Only the rows asked for are unpacked.
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let [batch, tokens] = ids.dims();
        let [_, features] = self.table.shape();
        let ids = ids.reshape([batch * tokens]);
        let rows = self.table.rows(ids, self.dtype.burn());
        rows.reshape([batch, tokens, features])
    }

    /// Logits of a model that ties its head to this table: `x` `[.., features]` to `[.., vocabulary]`.
    pub fn logits(&self, x: Tensor<3>) -> Tensor<3> {
        let [batch, tokens, features] = x.dims();
        let [vocabulary, _] = self.table.shape();
        self.table
            .product(x.reshape([batch * tokens, features]))
            .reshape([batch, tokens, vocabulary])
    }
}
