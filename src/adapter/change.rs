//! The changes that adapters make to the rows of a matrix.

use std::sync::{Arc, OnceLock};

use firebox_kernels::arith::float::DType;
use rayon::prelude::*;
use xxhash_rust::xxh3::Xxh3;

/// Rows whose squares one worker adds up: the same sums for any number of workers.
const ROWS_TOGETHER: usize = 64;

/// The changes that adapters make to the values of one slot.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct MergedAdapters {
    pub(super) changes: Vec<Change>,
}

/// The change of one adapter.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Change {
    /// How much of it is added.
    pub(super) weight: f64,
    /// Values in the place of the others, row after row.
    pub(super) whole: Option<Arc<[f32]>>,
    pub(super) low_rank: Option<LowRankRows>,
}

/// `scale · B A` of a matrix `[out, in]`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LowRankRows {
    /// `[r, in]`.
    pub(super) a: Arc<[f32]>,
    /// `[out, r]`.
    pub(super) b: Arc<[f32]>,
    pub(super) rank: usize,
    pub(super) scale: f32,
    pub(super) magnitude: Option<Magnitude>,
    /// Whether the matrix is a table of rows. peft rounds the change of a table to the type of the table before it is added.
    pub(super) is_table: bool,
}

/// The norms that are trained for themselves.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Magnitude {
    /// Of rows, `[out]`.
    Rows(Arc<[f32]>),
    /// Of columns, `[in]`: of a table, and of a matrix that is stored `[in, out]`.
    Columns(Arc<ColumnMagnitude>),
}

/// The norms of columns, and what each column is multiplied by, once all rows were seen.
#[derive(Debug, PartialEq)]
pub(super) struct ColumnMagnitude {
    norms: Arc<[f32]>,
    ratios: OnceLock<Vec<f32>>,
}

/// The sums of the squares of columns, for each change that needs them.
pub(crate) struct ColumnSquares(Vec<Option<Vec<f64>>>);

impl MergedAdapters {
    /// Changes the rows from `first_row` on of a matrix with `cols` columns, stored as `float`. Each adapter is
    /// computed in `f32` and rounded once to that type, as peft does. The changes add up: each is the change of the matrix as it
    /// was before all of them. Spread over the current rayon pool.
    ///
    /// # Panics
    ///
    /// Where [`unseen`](Self::unseen) columns were not seen.
    pub(crate) fn apply(&self, float: DType, first_row: usize, cols: usize, bytes: &mut [u8]) {
        let rows = bytes.par_chunks_mut((cols * float.size()).max(1));
        rows.enumerate().for_each(|(nth, bytes)| {
            let mut values = vec![0.0; bytes.len() / float.size()];
            float.widen(bytes, &mut values);
            let base = (self.changes.len() > 1).then(|| values.clone());
            for (before, change) in self.changes.iter().enumerate() {
                match &base {
                    Some(base) if before > 0 && change.depends_on_values() => {
                        change.add(float, first_row + nth, base, &mut values);
                    }
                    _ => change.apply(float, first_row + nth, &mut values),
                }
                for value in &mut values {
                    *value = float.round(*value);
                }
            }
            float.narrow(&values, bytes);
        });
    }

    /// Sums of squares to be filled, where changes need the norms of columns and nobody has seen all rows yet.
    pub(crate) fn unseen(&self, cols: usize) -> Option<ColumnSquares> {
        let unseen = self.changes.iter().map(|change| {
            let columns = change.columns()?;
            let is_unseen = columns.ratios.get().is_none();
            is_unseen.then(|| vec![0.0; cols])
        });
        let unseen: Vec<Option<Vec<f64>>> = unseen.collect();
        let some = unseen.iter().any(Option::is_some);
        some.then_some(ColumnSquares(unseen))
    }

    /// Adds the squares of the rows from `first_row` on, which are stored as `float`. Spread over the current rayon pool.
    pub(crate) fn see(
        &self,
        squares: &mut ColumnSquares,
        float: DType,
        first_row: usize,
        cols: usize,
        bytes: &[u8],
    ) {
        let row_bytes = (cols * float.size()).max(1);
        for (change, sums) in self.changes.iter().zip(&mut squares.0) {
            let Some(sums) = sums else { continue };
            let together = bytes.par_chunks(row_bytes * ROWS_TOGETHER).enumerate();
            let parts = together.map(|(nth, bytes)| {
                let mut part = vec![0.0; cols];
                let mut values = vec![0.0; cols];
                for (row, bytes) in bytes.chunks(row_bytes).enumerate() {
                    float.widen(bytes, &mut values);
                    change.unsized_row(float, first_row + nth * ROWS_TOGETHER + row, &mut values);
                    for (sum, value) in part.iter_mut().zip(&values) {
                        *sum += f64::from(*value) * f64::from(*value);
                    }
                }
                part
            });
            for part in parts.collect::<Vec<Vec<f64>>>() {
                for (sum, more) in sums.iter_mut().zip(part) {
                    *sum += more;
                }
            }
        }
    }

    /// All rows were seen.
    pub(crate) fn seen(&self, squares: ColumnSquares) {
        for (change, sums) in self.changes.iter().zip(squares.0) {
            if let (Some(columns), Some(sums)) = (change.columns(), sums) {
                let ratios = columns.norms.iter().zip(sums);
                let ratios = ratios.map(|(norm, sum)| norm / sum.sqrt() as f32);
                // Another thread that saw the same rows has found the same.
                let _ = columns.ratios.set(ratios.collect());
            }
        }
    }

    /// The same changes of the transposed matrix; those of `self` are of a matrix of `rows` rows.
    pub(crate) fn turned(&self, rows: usize) -> Self {
        let changes = self.changes.iter().map(|change| {
            let low_rank = change.low_rank.as_ref();
            Change {
                weight: change.weight,
                whole: change.whole.as_ref().map(|whole| transposed(whole, rows)),
                low_rank: low_rank.map(|factors| LowRankRows {
                    a: transposed(&factors.b, rows),
                    b: transposed(&factors.a, factors.rank),
                    magnitude: factors.magnitude.as_ref().map(Magnitude::turned),
                    ..factors.clone()
                }),
            }
        });
        Self {
            changes: changes.collect(),
        }
    }

    /// A checksum of all changes.
    pub(crate) fn checksum(&self) -> u128 {
        let mut hash = Xxh3::new();
        for Change {
            weight,
            whole,
            low_rank,
        } in &self.changes
        {
            hash.update(&weight.to_le_bytes());
            let factors = low_rank.iter().flat_map(|factors| {
                let norms = factors.magnitude.as_ref().map(Magnitude::norms);
                [Some(&factors.a), Some(&factors.b), norms]
                    .into_iter()
                    .flatten()
            });
            for values in whole.iter().chain(factors) {
                hash.update(&(values.len() as u64).to_le_bytes());
                hash.update(bytemuck::cast_slice(values));
            }
            let scale = low_rank.as_ref().map_or(0.0, |factors| factors.scale);
            hash.update(&scale.to_le_bytes());
        }
        hash.digest128()
    }
}

impl Change {
    /// Whether it is another one of other values: factors without a magnitude add the same to any.
    fn depends_on_values(&self) -> bool {
        let has_magnitude = |factors: &LowRankRows| factors.magnitude.is_some();
        self.whole.is_some() || self.low_rank.as_ref().is_some_and(has_magnitude)
    }

    /// The norms of columns that it has.
    fn columns(&self) -> Option<&ColumnMagnitude> {
        match self.low_rank.as_ref()?.magnitude.as_ref()? {
            Magnitude::Columns(columns) => Some(columns),
            Magnitude::Rows(_) => None,
        }
    }

    /// Adds its change of a row that was `base` to `values`.
    fn add(&self, float: DType, row: usize, base: &[f32], values: &mut [f32]) {
        let mut changed = base.to_vec();
        self.apply(float, row, &mut changed);
        for ((value, changed), base) in values.iter_mut().zip(changed).zip(base) {
            *value += changed - base;
        }
    }

    fn apply(&self, float: DType, row: usize, values: &mut [f32]) {
        let before = (self.weight != 1.0).then(|| values.to_vec());
        self.unsized_row(float, row, values);
        if let Some(magnitude) = self.low_rank.as_ref().and_then(|it| it.magnitude.as_ref()) {
            magnitude.resize(row, values);
        }
        for (value, before) in values.iter_mut().zip(before.into_iter().flatten()) {
            *value = before + self.weight as f32 * (*value - before);
        }
    }

    /// The changed row, before it is brought to another size.
    fn unsized_row(&self, float: DType, row: usize, values: &mut [f32]) {
        let cols = values.len();
        if let Some(whole) = &self.whole {
            values.copy_from_slice(&whole[row * cols..(row + 1) * cols]);
        }
        if let Some(factors) = &self.low_rank {
            factors.add(float, row, values);
        }
    }
}

impl LowRankRows {
    /// `w + s B A` of a row.
    fn add(&self, float: DType, row: usize, values: &mut [f32]) {
        let cols = values.len();
        let mut change = vec![0.0_f32; cols];
        let factors = &self.b[row * self.rank..(row + 1) * self.rank];
        for (factor, a) in factors.iter().zip(self.a.chunks_exact(cols.max(1))) {
            // Rounded once, as torch's fused products are: otherwise the last bit differs, and then values that are rounded to a
            // half. `mul_add` would be a call of a function where the compiler may not use the instruction.
            for (change, a) in change.iter_mut().zip(a) {
                let product = f64::from(*factor) * f64::from(*a);
                *change = (product + f64::from(*change)) as f32;
            }
        }
        let rounds = self.is_table && self.magnitude.is_none();
        for (value, change) in values.iter_mut().zip(&change) {
            let change = change * self.scale;
            *value += if rounds { float.round(change) } else { change };
        }
    }
}

impl Magnitude {
    /// Of the columns of a matrix whose rows nobody has seen yet.
    pub(super) fn of_columns(norms: Arc<[f32]>) -> Self {
        let ratios = OnceLock::new();
        Self::Columns(Arc::new(ColumnMagnitude { norms, ratios }))
    }

    fn norms(&self) -> &Arc<[f32]> {
        match self {
            Self::Rows(norms) => norms,
            Self::Columns(columns) => &columns.norms,
        }
    }

    /// The same of the transposed matrix.
    fn turned(&self) -> Self {
        match self {
            Self::Rows(norms) => Self::of_columns(Arc::clone(norms)),
            Self::Columns(columns) => Self::Rows(Arc::clone(&columns.norms)),
        }
    }

    /// Brings a row, or what it has of each column, to its norm.
    fn resize(&self, row: usize, values: &mut [f32]) {
        match self {
            Self::Rows(norms) => {
                let ratio = norms[row] / norm(values);
                values.iter_mut().for_each(|value| *value *= ratio);
            }
            Self::Columns(columns) => {
                let ratios = columns.ratios.get().expect("all rows were seen");
                let values = values.iter_mut().zip(ratios);
                values.for_each(|(value, ratio)| *value *= ratio);
            }
        }
    }
}

/// The norm of a row, summed in the order of torch's processor kernel: eight lanes, added one after another, then the rest.
/// Another order differs in the last bit, and then in values that are rounded to a half.
fn norm(values: &[f32]) -> f32 {
    let (whole, rest) = values.as_chunks::<8>();
    let mut lanes = [0.0_f32; 8];
    for values in whole {
        for (lane, value) in lanes.iter_mut().zip(values) {
            *lane += value * value;
        }
    }
    let squares = rest.iter().map(|value| value * value);
    lanes.into_iter().chain(squares).sum::<f32>().sqrt()
}

/// The transposed matrix of `values`, which are `rows` rows one after another.
pub(super) fn transposed(values: &[f32], rows: usize) -> Arc<[f32]> {
    let cols = values.len() / rows.max(1);
    let turned = (0..cols).flat_map(|col| (0..rows).map(move |row| values[row * cols + col]));
    turned.collect()
}
