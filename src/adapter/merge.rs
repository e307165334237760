//! An adapter merged into the matrices of a checkpoint, some rows at a time.

use std::sync::Arc;

use firebox_kernels::arith::float::DType;
use rayon::prelude::*;
use xxhash_rust::xxh3::Xxh3;

use super::{
    error::{AdapterError, DORA_OF_TABLE},
    file::{AdapterFile, ModuleTensors, StoredTensor},
};
use crate::model::{Role, Slot, TIED_HEAD};

/// The changes that adapters make to the values of one slot.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct MergedAdapters {
    changes: Vec<Change>,
}

/// The change of one adapter.
#[derive(Debug, Clone, PartialEq)]
struct Change {
    /// How much of it is added.
    weight: f64,
    /// Values in the place of the others, row after row.
    whole: Option<Arc<[f32]>>,
    low_rank: Option<LowRankRows>,
}

/// `scale · B A` of a matrix `[out, in]`.
#[derive(Debug, Clone, PartialEq)]
struct LowRankRows {
    /// `[r, in]`.
    a: Arc<[f32]>,
    /// `[out, r]`.
    b: Arc<[f32]>,
    rank: usize,
    scale: f32,
    /// `[out]`.
    magnitude: Option<Arc<[f32]>>,
    /// Whether the matrix is a table of rows. peft holds the factors of linear layers in `f32`, and those of tables in the
    /// type of the table, to which it rounds their product too.
    is_table: bool,
}

impl MergedAdapters {
    /// Changes the rows from `first_row` on of a matrix with `cols` columns, stored as `float`. Each adapter is
    /// computed in `f32` and rounded once to that type, as peft does. The changes add up: each is the change of the matrix as it
    /// was before all of them. Spread over the current rayon pool.
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

    /// The same changes of the transposed matrix; those of `self` are of a matrix of `rows` rows. `None` where a change has the
    /// norms of rows, which are not those of columns.
    pub(crate) fn turned(&self, rows: usize) -> Option<Self> {
        let turned = self.changes.iter().map(|change| {
            let whole = change.whole.as_ref();
            let low_rank = match &change.low_rank {
                None => None,
                Some(factors) if factors.magnitude.is_some() => return None,
                Some(factors) => Some(LowRankRows {
                    a: transposed(&factors.b, rows),
                    b: transposed(&factors.a, factors.rank),
                    ..factors.clone()
                }),
            };
            Some(Change {
                weight: change.weight,
                whole: whole.map(|whole| transposed(whole, rows)),
                low_rank,
            })
        });
        let changes = turned.collect::<Option<_>>()?;
        Some(Self { changes })
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
                let LowRankRows {
                    a, b, magnitude, ..
                } = factors;
                [Some(a), Some(b), magnitude.as_ref()].into_iter().flatten()
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

    /// Adds its change of a row that was `base` to `values`.
    fn add(&self, float: DType, row: usize, base: &[f32], values: &mut [f32]) {
        let mut changed = base.to_vec();
        self.apply(float, row, &mut changed);
        for ((value, changed), base) in values.iter_mut().zip(changed).zip(base) {
            *value += changed - base;
        }
    }

    fn apply(&self, float: DType, row: usize, values: &mut [f32]) {
        let cols = values.len();
        let before = (self.weight != 1.0).then(|| values.to_vec());
        if let Some(whole) = &self.whole {
            values.copy_from_slice(&whole[row * cols..(row + 1) * cols]);
        }
        if let Some(factors) = &self.low_rank {
            factors.apply(float, row, values);
        }
        for (value, before) in values.iter_mut().zip(before.into_iter().flatten()) {
            *value = before + self.weight as f32 * (*value - before);
        }
    }
}

impl LowRankRows {
    /// `w + s B A` of a row; with a magnitude that row at another length.
    fn apply(&self, float: DType, row: usize, values: &mut [f32]) {
        let cols = values.len();
        let rounded = |value: f32| match self.is_table {
            true => float.round(value),
            false => value,
        };
        let mut change = vec![0.0_f32; cols];
        let factors = &self.b[row * self.rank..(row + 1) * self.rank];
        for (factor, a) in factors.iter().zip(self.a.chunks_exact(cols.max(1))) {
            // Rounded once, as torch's fused products are: otherwise the last bit differs, and then values that are rounded to a
            // half. `mul_add` would be a call of a function where the compiler may not use the instruction.
            for (change, a) in change.iter_mut().zip(a) {
                let product = f64::from(rounded(*factor)) * f64::from(rounded(*a));
                *change = (product + f64::from(*change)) as f32;
            }
        }
        for (value, change) in values.iter_mut().zip(&change) {
            *value += rounded(change * self.scale);
        }
        if let Some(magnitude) = &self.magnitude {
            let ratio = magnitude[row] / norm(values);
            for value in values {
                *value *= ratio;
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

/// The changes that `adapters`, each with its weight, make to the slots of a model, by the number of the slot.
///
/// # Errors
///
/// [`AdapterError`] where an adapter changes a module that no slot is the matrix or the bias of.
pub(crate) fn merges(
    adapters: &[(AdapterFile, f64)],
    slots: &[&Slot],
) -> Result<Vec<(usize, MergedAdapters)>, AdapterError> {
    let mut merges = vec![MergedAdapters::default(); slots.len()];
    for (file, weight) in adapters {
        for (module, tensors) in &file.modules {
            let matrix =
                find(slots, module, "weight").ok_or_else(|| missing(file, slots, module))?;
            let is_tied = || slots.iter().all(|slot| slot.role != Role::Head);
            if slots[matrix].role == Role::Embedding && is_tied() {
                if tensors.whole.is_some() {
                    return Err(AdapterError::NotAdaptable {
                        module: module.clone(),
                        reason: "the adapter has another embedding, and the head of this model is its embedding, which the adapter does not change; use the adapter without merging",
                    });
                }
                tracing::warn!(
                    adapter = %file.name,
                    "changes the embedding of a model whose head is its embedding: merged, it changes the head too, as in peft"
                );
            }
            if tensors.whole.is_some() || tensors.a.is_some() {
                let change = change(file, module, tensors, slots[matrix], *weight)?;
                merges[matrix].changes.push(change);
            }
            if let Some(bias) = &tensors.bias {
                let place = find(slots, module, "bias").ok_or_else(|| AdapterError::NotAdaptable {
                    module: module.clone(),
                    reason: "the adapter has a bias for it, and the model has none that could be replaced",
                })?;
                let whole = file.values(module, bias, "bias", &slots[place].shape)?;
                merges[place].changes.push(Change {
                    weight: *weight,
                    whole: Some(whole.into()),
                    low_rank: None,
                });
            }
        }
    }
    let merges = merges.into_iter().enumerate();
    let changed = merges.filter(|(_, merge)| !merge.changes.is_empty());
    Ok(changed.collect())
}

fn find(slots: &[&Slot], module: &str, end: &str) -> Option<usize> {
    let is_it = |slot: &&Slot| {
        let path = slot.name.strip_suffix(end);
        path.and_then(|path| path.strip_suffix('.')) == Some(module)
    };
    slots.iter().position(is_it)
}

fn missing(file: &AdapterFile, slots: &[&Slot], module: &str) -> AdapterError {
    if module == TIED_HEAD {
        return AdapterError::NotAdaptable {
            module: module.to_owned(),
            reason: "the head of this model is its embedding, so that no file has a place for a merged head; use the adapter without merging",
        };
    }
    let is_matrix = |slot: &&&Slot| slot.is_matrix();
    let first = slots.iter().find(is_matrix);
    AdapterError::NoModule {
        adapter: file.name.clone(),
        module: module.to_owned(),
        count: 1,
        nearest: first.map_or_else(String::new, |slot| slot.name.clone()),
    }
}

fn change(
    file: &AdapterFile,
    module: &str,
    tensors: &ModuleTensors,
    slot: &Slot,
    weight: f64,
) -> Result<Change, AdapterError> {
    let refused = |reason| AdapterError::NotAdaptable {
        module: module.to_owned(),
        reason,
    };
    let [rows, cols] = match slot.shape[..] {
        [rows, cols] => [rows, cols],
        [features] if tensors.a.is_none() => [features, 1],
        [_] => {
            return Err(refused(
                "it is no matrix, and the adapter has factors for it",
            ));
        }
        _ => {
            return Err(refused(
                "its matrix lies in a stack with others, into which no adapter is merged",
            ));
        }
    };
    let wrong = |reason| file.config_error(reason);
    let values = |tensor: &StoredTensor, name, expected: &[usize]| -> Result<Arc<[f32]>, _> {
        Ok(file.values(module, tensor, name, expected)?.into())
    };
    let whole = tensors.whole.as_ref();
    let whole = whole.map(|whole| values(whole, "whole weight", &slot.shape));
    let low_rank = match (&tensors.a, &tensors.b) {
        (Some(a), Some(b)) => {
            let rank = file.config.rank(module).map_err(wrong)?;
            let scale = file.config.scale(module).map_err(wrong)? as f32;
            let magnitude = tensors.magnitude.as_ref();
            let is_table = slot.role == Role::Embedding;
            if is_table && magnitude.is_some() {
                return Err(refused(DORA_OF_TABLE));
            }
            let (a, b) = if is_table {
                // The factors are those of the transposed table.
                let a = values(a, "factor A", &[rank, rows])?;
                let b = values(b, "factor B", &[cols, rank])?;
                (transposed(&b, cols), transposed(&a, rank))
            } else {
                let a = values(a, "factor A", &[rank, cols])?;
                let b = values(b, "factor B", &[rows, rank])?;
                (a, b)
            };
            Some(LowRankRows {
                a,
                b,
                rank,
                scale,
                magnitude: magnitude
                    .map(|magnitude| values(magnitude, "magnitude", &[rows]))
                    .transpose()?,
                is_table,
            })
        }
        _ => None,
    };
    Ok(Change {
        weight,
        whole: whole.transpose()?,
        low_rank,
    })
}

/// The transposed matrix of `values`, which are `rows` rows one after another.
fn transposed(values: &[f32], rows: usize) -> Arc<[f32]> {
    let cols = values.len() / rows.max(1);
    let turned = (0..cols).flat_map(|col| (0..rows).map(move |row| values[row * cols + col]));
    turned.collect()
}
