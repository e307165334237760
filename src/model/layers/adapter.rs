//! A small trained change of a matrix that stays as it is.
//!
//! Letters: `m` rows of activations, `r` rank.

use core::fmt;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use burn::{
    module::{Module, Param},
    tensor::{DType, Int, Tensor},
};

use super::{dropout::Dropout, frozen::values, matrix::Matrix};

/// The change that one adapter makes to one matrix `[out, in]`, and to the bias beside it.
///
/// Every parameter is an ordinary one: optimizers, records and `valid()` of Burn see it. The matrix itself is not part of the
/// adapter, and gets no gradient.
#[derive(Module, Debug)]
pub struct Adapter {
    /// A matrix `[out, in]` in the place of the other one.
    pub whole: Option<Param<Tensor<2>>>,
    /// Factors whose product is added.
    pub low_rank: Option<LowRank>,
    /// A bias `[out]` in the place of the other one.
    pub bias: Option<Param<Tensor<1>>>,
    /// Which adapter of the model this is, and its weight.
    #[module(skip)]
    pub switch: AdapterSwitch,
}

/// The name and the weight of an adapter, which all its matrices share: one call changes the weight in all of them.
#[derive(Clone)]
pub struct AdapterSwitch {
    name: Arc<str>,
    weight: Arc<AtomicU64>,
}

/// `scale · B A`, the change of low-rank adaptation (LoRA, arXiv 2106.09685); with a magnitude the change of
/// weight-decomposed adaptation (DoRA, arXiv 2402.09353).
///
/// Of an embedding, the matrix is the transposed table: A is `[r, vocabulary]`, B `[features, r]`, the magnitude `[features]`.
///
/// The path of the parameters in a record names their meaning (`low_rank.lora:rank=16,scale=2.a`), so that Burn refuses a
/// record of another kind, rank or scale.
#[derive(Debug, Clone)]
pub struct LowRank {
    /// `[r, in]`.
    pub a: Param<Tensor<2>>,
    /// `[out, r]`.
    pub b: Param<Tensor<2>>,
    /// The norm of each row of the changed matrix, `[out]`.
    pub magnitude: Option<Param<Tensor<1>>>,
    /// How much of `B A` is added.
    pub scale: f64,
    /// Drops activations while adapters are trained.
    pub dropout: Option<Dropout>,
    /// The sum of the squares of each row of the matrix, `[out]`, where there is a magnitude.
    pub row_squares: Option<Tensor<1>>,
}

impl AdapterSwitch {
    /// An adapter of this name and weight; 1 adds the change as it was trained.
    pub fn new(name: impl Into<Arc<str>>, weight: f64) -> Self {
        Self {
            name: name.into(),
            weight: Arc::new(AtomicU64::new(weight.to_bits())),
        }
    }

    /// The name of the adapter.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether both are one switch.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.weight, &other.weight)
    }

    /// How much of the change is added; nothing at 0.
    pub fn weight(&self) -> f64 {
        f64::from_bits(self.weight.load(Ordering::Relaxed))
    }

    /// Adds this much of the change from now on, in every module that shares the adapter, clones included.
    pub fn set_weight(&self, weight: f64) {
        self.weight.store(weight.to_bits(), Ordering::Relaxed);
    }
}

impl fmt::Debug for AdapterSwitch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.weight())
    }
}

impl Adapter {
    /// The change of the product of `x` `[m, in]` with `matrix`, whose own product is `product` `[m, out]`; `None` where the
    /// adapter is off or changes the bias alone.
    pub(super) fn product(
        &self,
        matrix: &Matrix,
        x: &Tensor<2>,
        product: &Tensor<2>,
    ) -> Option<Tensor<2>> {
        let replaced = self.replaced();
        let whole = self.whole.as_ref().map(|whole| {
            let whole = values(whole).cast(x.dtype());
            x.clone().matmul(whole.transpose())
        });
        let low_rank = self.low_rank.as_ref().map(|factors| {
            let matrix = replaced.as_ref().unwrap_or(matrix);
            factors.product(matrix, x, whole.as_ref().unwrap_or(product))
        });
        let whole = whole.map(|whole| whole - product.clone());
        self.weighted(sum(whole, low_rank))
    }

    /// The matrix in the place of the other one, which factors change then.
    fn replaced(&self) -> Option<Matrix> {
        self.whole.clone().map(Matrix::Dense)
    }

    /// The change of the scale of a norm, which is `scale` `[features]` without the adapter.
    pub(super) fn scale(&self, scale: &Tensor<1>) -> Option<Tensor<1>> {
        let whole = self.whole.as_ref().map(values)?;
        let whole: Tensor<1> = whole.flatten(0, 1);
        let dtype = whole.dtype();
        self.weighted(Some(whole - scale.clone().cast(dtype)))
    }

    /// The change of a bias, which is `bias` `[out]` without the adapter.
    pub(super) fn bias(&self, bias: Option<&Param<Tensor<1>>>) -> Option<Tensor<1>> {
        let changed = self.bias.as_ref().map(values)?;
        self.weighted(Some(match bias {
            Some(bias) => changed.clone() - values(bias).cast(changed.dtype()),
            None => changed,
        }))
    }

    /// The change of the rows that `ids` `[m]` name of `table` `[vocabulary, features]`, which are `rows` `[m, features]`
    /// without the adapter. The factors are those of the transposed table: A `[r, vocabulary]`, B `[features, r]`.
    pub(super) fn rows(
        &self,
        table: &Matrix,
        ids: &Tensor<1, Int>,
        rows: &Tensor<2>,
    ) -> Option<Tensor<2>> {
        let dtype = rows.dtype();
        let replaced = self.replaced();
        let whole = self.whole.as_ref();
        let whole = whole.map(|whole| values(whole).select(0, ids.clone()).cast(dtype));
        let low_rank = self.low_rank.as_ref().map(|factors| {
            let table = replaced.as_ref().unwrap_or(table);
            let rows = whole.as_ref().unwrap_or(rows);
            factors.rows(table, ids, rows).cast(dtype)
        });
        let whole = whole.map(|whole| whole - rows.clone());
        self.weighted(sum(whole, low_rank))
    }

    /// The change of all of a matrix `[out, in]`, which is `dense` without the adapter.
    pub(super) fn matrix(&self, dense: &Tensor<2>) -> Option<Tensor<2>> {
        let dtype = dense.dtype();
        self.of_all(dense, |factors, base| factors.matrix(base).cast(dtype))
    }

    /// The change of all of a table `[vocabulary, features]`, which is `dense` without the adapter.
    pub(super) fn table(&self, dense: &Tensor<2>) -> Option<Tensor<2>> {
        let dtype = dense.dtype();
        self.of_all(dense, |factors, base| factors.table(base).cast(dtype))
    }

    /// The change of all of `dense`, to which factors add what `add` says for the values that they change.
    fn of_all(
        &self,
        dense: &Tensor<2>,
        add: impl FnOnce(&LowRank, &Tensor<2>) -> Tensor<2>,
    ) -> Option<Tensor<2>> {
        let whole = self.whole.as_ref();
        let whole = whole.map(|whole| values(whole).cast(dense.dtype()));
        let low_rank = self.low_rank.as_ref();
        let low_rank = low_rank.map(|factors| add(factors, whole.as_ref().unwrap_or(dense)));
        let whole = whole.map(|whole| whole - dense.clone());
        self.weighted(sum(whole, low_rank))
    }

    /// Whether it changes the matrix, the table or the scale now.
    pub(crate) fn changes_weight(&self) -> bool {
        self.switch.weight() != 0.0 && (self.whole.is_some() || self.low_rank.is_some())
    }

    fn weighted<const D: usize>(&self, change: Option<Tensor<D>>) -> Option<Tensor<D>> {
        match self.switch.weight() {
            0.0 => None,
            1.0 => change,
            weight => change.map(|change| change * weight),
        }
    }
}

impl LowRank {
    /// The change of the product of `x` `[m, in]` with `matrix`, whose own product is `product` `[m, out]`.
    ///
    /// With a magnitude `w` and the norms `n` of the rows of `W + scale · B A`, which count as constants:
    /// `(w/n - 1) · x Wᵀ + (w/n) · scale · x Aᵀ Bᵀ`, as peft has it. `x` is dropped in both products.
    fn product(&self, matrix: &Matrix, x: &Tensor<2>, product: &Tensor<2>) -> Tensor<2> {
        let [a, b] = [&self.a, &self.b].map(values);
        let (dtype, factors) = (x.dtype(), a.dtype());
        let dropped = self.dropout.as_ref();
        let dropped = dropped.filter(|dropout| dropout.draws(a.is_autodiff()));
        let dropped = dropped.map(|dropout| dropout.forward(x.clone()));
        let x = dropped.clone().unwrap_or_else(|| x.clone()).cast(factors);
        // The small product is scaled, not the large one.
        let small = x.clone().matmul(a.transpose()) * self.scale;
        let change = small.matmul(b.transpose());
        let Some(magnitude) = &self.magnitude else {
            return change.cast(dtype);
        };
        let product = match dropped {
            Some(x) => matrix.product(x),
            None => product.clone(),
        };
        let norms = self.norms(|a| matrix.product(a));
        resized(values(magnitude) / norms, product.cast(factors), change).cast(dtype)
    }

    /// The change of the rows that `ids` `[m]` name of `table` `[vocabulary, features]`, which are `rows` `[m, features]`
    /// without the factors. With a magnitude `w` and the norms `n` of the columns of the changed table: the row times `w/n`, as
    /// peft has it.
    fn rows(&self, table: &Matrix, ids: &Tensor<1, Int>, rows: &Tensor<2>) -> Tensor<2> {
        let [a, b] = [&self.a, &self.b].map(values);
        let a = a.select(1, ids.clone()).transpose();
        let change = a.matmul(b.transpose()) * self.scale;
        let Some(magnitude) = &self.magnitude else {
            return change;
        };
        let norms = self.norms(|a| table.turned_product(a));
        let rows = rows.clone().cast(change.dtype());
        resized(values(magnitude) / norms, rows, change)
    }

    /// Its dropout, where it is trained.
    pub(super) fn dropout_mut(&mut self) -> Option<&mut Dropout> {
        let trained = self.a.val().is_autodiff();
        self.dropout.as_mut().filter(|_| trained)
    }

    /// The change of all of a matrix `[out, in]`.
    fn matrix(&self, dense: &Tensor<2>) -> Tensor<2> {
        let [a, b] = [&self.a, &self.b].map(values);
        let change = b.matmul(a) * self.scale;
        let Some(magnitude) = &self.magnitude else {
            return change;
        };
        let dense = dense.clone().cast(change.dtype());
        let changed = dense.clone() + change;
        let norms = norms(&changed, 1);
        let magnitude: Tensor<2> = values(magnitude).unsqueeze_dim(1);
        changed * (magnitude / norms) - dense
    }

    /// The change of all of a table `[vocabulary, features]`.
    fn table(&self, dense: &Tensor<2>) -> Tensor<2> {
        let [a, b] = [&self.a, &self.b].map(values);
        let change = a.transpose().matmul(b.transpose()) * self.scale;
        let Some(magnitude) = &self.magnitude else {
            return change;
        };
        let dense = dense.clone().cast(change.dtype());
        let changed = dense.clone() + change;
        let norms = norms(&changed, 0);
        let magnitude: Tensor<2> = values(magnitude).unsqueeze_dim(0);
        changed * (magnitude / norms) - dense
    }

    /// The norms of the rows of `W + scale · B A`, `[out]`, outside of any graph; `product` multiplies A with the transposed
    /// matrix: `[r, out]`. The matrix of a table is the transposed table.
    ///
    /// `‖w + s b A‖² = ‖w‖² + 2 s b·(A w) + s² b·(A Aᵀ b)` for each row: no dense matrix is made.
    fn norms(&self, product: impl FnOnce(Tensor<2>) -> Tensor<2>) -> Tensor<1> {
        let [a, b] = [&self.a, &self.b].map(|factor| factor.val().without_autodiff());
        let (a, b) = (a.cast(DType::F32), b.cast(DType::F32));
        let products = product(a.clone()).without_autodiff().transpose();
        let squares = b.clone().matmul(a.clone().matmul(a.transpose()));
        let change = products * (2.0 * self.scale) + squares * self.scale.powi(2);
        let change: Tensor<1> = (b * change).sum_dim(1).squeeze_dim(1);
        let base = self.row_squares.clone();
        let base = base.expect("an adapter with a magnitude has the squares of its matrix");
        (base.to_device(&change.device()) + change)
            .clamp_min(f32::MIN_POSITIVE)
            .sqrt()
    }
}

/// The change of `product` `[m, out]` to `ratio` `[out]` times itself and `change`.
fn resized(ratio: Tensor<1>, product: Tensor<2>, change: Tensor<2>) -> Tensor<2> {
    let ratio: Tensor<2> = ratio.unsqueeze();
    (ratio.clone() - 1.0) * product + ratio * change
}

/// The norms along an axis, outside of any graph.
fn norms(matrix: &Tensor<2>, axis: usize) -> Tensor<2> {
    let squares = matrix.clone().without_autodiff().square();
    squares.sum_dim(axis).sqrt()
}

/// A bias `[out]` with the changes of adapters; `None` where there is neither.
pub(super) fn changed_bias(
    bias: Option<&Param<Tensor<1>>>,
    adapters: &[Adapter],
) -> Option<Tensor<1>> {
    let changes = adapters.iter().filter_map(|adapter| adapter.bias(bias));
    let changed = changes.reduce(|one, other| one + other);
    match (bias.map(values), changed) {
        (Some(bias), Some(changed)) => Some(bias.cast(changed.dtype()) + changed),
        (bias, changed) => bias.or(changed),
    }
}

fn sum<const D: usize>(one: Option<Tensor<D>>, other: Option<Tensor<D>>) -> Option<Tensor<D>> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one + other),
        (one, other) => one.or(other),
    }
}
