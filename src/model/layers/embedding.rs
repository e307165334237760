//! A table of rows looked up by token, dense or packed.

use burn::{
    module::Module,
    tensor::{FloatDType, Int, Tensor},
};

use super::{adapter::Adapter, linear::Place, matrix::Matrix};
use crate::{
    collective::Together,
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
    /// The other ranks, where each has some of the rows, and the first row of this one.
    #[module(skip)]
    pub(crate) part: Option<(Together, usize)>,
}

impl Embedding {
    /// From a table `[vocabulary, features]`; packed rows are unpacked to `dtype`.
    pub fn new(table: Matrix, dtype: DType) -> Self {
        Self {
            table,
            adapters: Vec::new(),
            dtype,
            place: Place::new("", Role::Embedding),
            part: None,
        }
    }

    /// The same module under the name that adapters know it by.
    pub(crate) fn named(self, place: Place) -> Self {
        Self { place, ..self }
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
        let rows = match (&self.part, self.adapters.is_empty()) {
            (Some((together, first)), _) => self.rows_of_all(ids, together, *first),
            (None, true) => self.table.rows(ids, self.dtype.burn()),
            (None, false) => self.changed_rows(ids),
        };
        rows.reshape([batch, tokens, features])
    }

    /// The rows that `ids` `[m]` name, of which this rank has those from `first` on: `[m, features]`.
    fn rows_of_all(&self, ids: Tensor<1, Int>, together: &Together, first: usize) -> Tensor<2> {
        let [rows, _] = self.table.shape();
        let local = ids - first as i64;
        let (before, after) = (
            local.clone().lower_elem(0),
            local.clone().greater_equal_elem(rows as i64),
        );
        // A row for every id; zeros for those that another rank has.
        let found = self
            .table
            .rows(local.clamp(0, rows as i64 - 1), self.dtype.burn());
        let found = found.mask_fill(before.bool_or(after).unsqueeze_dim(1), 0);
        together.sum(found)
    }

    /// The rows that `ids` `[m]` name, with the changes of adapters: `[m, features]`.
    fn changed_rows(&self, ids: Tensor<1, Int>) -> Tensor<2> {
        let rows = self.table.rows(ids.clone(), self.dtype.burn());
        let changes = self.adapters.iter();
        let changes = changes.filter_map(|adapter| adapter.rows(&self.table, &ids, &rows));
        changes.fold(rows.clone(), |rows, change| rows + change)
    }

    /// Logits of a model that ties its head to this table: `x` `[.., features]` to `[.., vocabulary]`.
    pub fn logits(&self, x: Tensor<3>) -> Tensor<3> {
        let [batch, tokens, features] = x.dims();
        let [rows, _] = self.table.shape();
        let logits = self.table.product(x.reshape([batch * tokens, features]));
        let logits = logits.reshape([batch, tokens, rows]);
        match &self.part {
            Some((together, _)) => together.beside(logits),
            None => logits,
        }
    }
}
