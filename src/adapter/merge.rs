//! Adapters merged into the matrices of a checkpoint: the change of each slot.

use std::sync::Arc;

use super::{
    change::{Change, LowRankRows, Magnitude, MergedAdapters, transposed},
    complete,
    error::AdapterError,
    expanded,
    file::{AdapterFile, ModuleTensors, StoredTensor},
    sites::{Sites, is_head},
    tied,
};
use crate::model::{Role, Slot};

/// Why nothing is merged into the matrix of one expert of a stack.
const IN_STACK: &str = "its matrix lies in a stack with others, into which no adapter is merged; use the adapter without merging";

/// The changes that `adapters`, each with its weight, make to the slots of a model, by the number of the slot. `module_of` gives
/// the name in transformers of the module at a path; `new_blocks` are the layers of the model that are new.
///
/// # Errors
///
/// [`AdapterError`] where an adapter changes a module that no slot is the matrix or the bias of, or lacks one that it names.
pub(crate) fn merges(
    adapters: &[(AdapterFile, f64)],
    slots: &[&Slot],
    module_of: &dyn Fn(&str) -> String,
    new_blocks: &[usize],
) -> Result<Vec<(usize, MergedAdapters)>, AdapterError> {
    let (sites, numbers) = Sites::of_slots(slots, module_of);
    let is_tied = slots.iter().all(|slot| slot.role != Role::Head);
    let is_table = |module: &str| {
        let site = sites.find(module);
        site.is_some_and(|site| slots[numbers[site]].role == Role::Embedding)
    };
    let mut merges = vec![MergedAdapters::default(); slots.len()];
    for (file, weight) in adapters {
        let resolved = sites.resolve(file, |module| is_tied && is_head(module));
        let resolved = resolved.map_err(|error| in_stack(error, slots))?;
        if let Some(first) = resolved.beside.first() {
            return Err(sites.no_module(file, first, resolved.beside.len()));
        }
        if is_tied && tied::comes_apart(file, is_table) {
            return Err(AdapterError::NotAdaptable {
                module: file
                    .modules()
                    .find(|it| is_head(it) || is_table(it))
                    .unwrap_or_default()
                    .to_owned(),
                reason: "the head of this model is its embedding, and the adapter changes one of both; tensors without a model have no place for the other one: use the adapter without merging",
            });
        }
        expanded::check(file, &sites, new_blocks)?;
        let found = numbers.iter().zip(&resolved.found);
        for (matrix, (module, tensors)) in found.filter_map(|(nth, it)| Some((*nth, (*it)?))) {
            if slots[matrix].role == Role::Embedding && is_tied && tensors.has_factors() {
                tracing::warn!(
                    adapter = %file.name,
                    "changes the embedding of a model whose head is its embedding: merged, it changes the head too, as in peft"
                );
            }
            if tensors.whole.is_some() || tensors.has_factors() {
                let change = change(file, module, tensors, slots[matrix], *weight)?;
                merges[matrix].changes.push(change);
            }
            if let Some(bias) = &tensors.bias {
                let place = bias_of(slots, slots[matrix]).ok_or_else(|| AdapterError::NotAdaptable {
                    module: module.to_owned(),
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
        complete::check(file, &sites, &resolved)?;
    }
    let merges = merges.into_iter().enumerate();
    let changed = merges.filter(|(_, merge)| !merge.changes.is_empty());
    Ok(changed.collect())
}

/// A module that is not there may be one of a stack of experts, which a save keeps whole.
fn in_stack(error: AdapterError, slots: &[&Slot]) -> AdapterError {
    let mut slots = slots.iter();
    let has_stacks = slots.any(|slot| slot.role == Role::Expert && slot.shape.len() == 3);
    match error {
        AdapterError::NoModule { module, .. } if has_stacks && module.contains(".experts.") => {
            let reason = IN_STACK;
            AdapterError::NotAdaptable { module, reason }
        }
        error => error,
    }
}

/// The number of the slot of the bias beside a weight.
fn bias_of(slots: &[&Slot], weight: &Slot) -> Option<usize> {
    let module = weight.name.strip_suffix("weight")?;
    let is_it = |slot: &&Slot| slot.name.strip_suffix("bias") == Some(module);
    slots.iter().position(is_it)
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
            return Err(refused(IN_STACK));
        }
    };
    let wrong = |reason| file.config_error(reason);
    let values = |tensor: &StoredTensor, name, expected: &[usize]| -> Result<Arc<[f32]>, _> {
        Ok(file.values(module, tensor, name, expected)?.into())
    };
    let is_turned = matches!(&slot.from[..], [origin] if origin.transposed);
    let whole = tensors.whole.as_ref().map(|whole| match is_turned {
        // As the checkpoint has it, so has the adapter.
        true => values(whole, "whole weight", &[cols, rows]).map(|whole| transposed(&whole, cols)),
        false => values(whole, "whole weight", &slot.shape),
    });
    let low_rank = match (&tensors.a, &tensors.b) {
        (Some(a), Some(b)) => {
            let rank = file.config.rank(module).map_err(wrong)?;
            let scale = file.config.scale(module).map_err(wrong)? as f32;
            let magnitude = tensors.magnitude.as_ref();
            let is_table = slot.role == Role::Embedding;
            // The factors of a table are those of the transposed table.
            let [out, r#in] = if is_table { [cols, rows] } else { [rows, cols] };
            let a = values(a, "factor A", &[rank, r#in])?;
            let b = values(b, "factor B", &[out, rank])?;
            let magnitude = magnitude.map(|magnitude| values(magnitude, "magnitude", &[out]));
            let magnitude = magnitude.transpose()?;
            let [a, b] = match is_table {
                true => [transposed(&b, cols), transposed(&a, rank)],
                false => [a, b],
            };
            Some(LowRankRows {
                a,
                b,
                rank,
                scale,
                magnitude: magnitude.map(|norms| match is_table {
                    true => Magnitude::of_columns(norms),
                    false => Magnitude::Rows(norms),
                }),
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
