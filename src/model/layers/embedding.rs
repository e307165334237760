//! A table of rows looked up by token, dense or packed.

use burn::{
    module::Module,
    tensor::{FloatDType, Int, Tensor},
};

use super::{adapter::Adapter, linear::Place, matrix::Matrix};
use crate::{
    config::Role,
    target::{DType, ToBurn},
};

/// A table `[vocabulary, features]`.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[vocabulary, features]`.
    pub table: Matrix,
    /// Changes of the rows that are looked up, each added for itself. A head that is tied to the table keeps the table.
    pub adapters: Vec<Adapter>,
    #[module(skip)]
    dtype: DType,
    #[module(skip)]
    pub(crate) place: Place,
}

impl Embedding {
    /// From a table `[vocabulary, features]`; packed rows are unpacked to `dtype`.
    pub fn new(table: Matrix, dtype: DType) -> Self {
        Self {
            table,
            adapters: Vec::new(),
            dtype,
            place: Place::new("", Role::Embedding),
        }
    }

    /// The same module under the name that adapters know it by.
    pub(crate) fn named(self, path: &str) -> Self {
        Self {
            place: Place::new(path, Role::Embedding),
            ..self
        }
    }

    /// The type of the rows that are looked up, which activations are in.
    pub(crate) fn dtype(&self) -> DType {
        self.dtype
    }

    /// All rows with the changes of adapters, dense in `dtype`: `[vocabulary, features]`.
    pub fn to_dense(&self, dtype: FloatDType) -> Tensor<2> {
        let dense = self.table.to_dense(dtype).cast(dtype);
        let changes = self.adapters.iter();
        let changes = changes.filter_map(|adapter| adapter.table(&dense));
        changes.fold(dense.clone(), |changed, change| changed + change)
    }

    /// `ids` `[batch, tokens]` to `[batch, tokens, features]`. Only the rows asked for are unpacked.
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let [batch, tokens] = ids.dims();
        let [_, features] = self.table.shape();
        // The rows are in a graph where the table is: Burn refuses tokens whose device has another strategy of checkpointing.
        let ids = ids.without_autodiff().reshape([batch * tokens]);
        let rows = match self.adapters.is_empty() {
            true => self.table.rows(ids, self.dtype.burn()),
            false => self.changed_rows(ids),
        };
        rows.reshape([batch, tokens, features])
    }

    /// The rows that `ids` `[m]` name, with the changes of adapters: `[m, features]`.
    fn changed_rows(&self, ids: Tensor<1, Int>) -> Tensor<2> {
        let rows = self.table.rows(ids.clone(), self.dtype.burn());
        let changes = self.adapters.iter();
        let changes = changes.filter_map(|adapter| adapter.rows(&ids, &rows));
        changes.fold(rows.clone(), |rows, change| rows + change)
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
