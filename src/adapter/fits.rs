//! Whether adapters fit a model, by the shapes of its weights: known before one is read.

use super::{
    AdapterConfig, AdapterError, AdapterFile, LoraConfig,
    attach::{CHOOSES, NO_MATRIX},
    complete::is_gate,
    expanded,
    file::StoredTensor,
    parts::{AdapterParts, rank_of},
    sites::{Sites, is_head},
};
use crate::{
    config::{Pattern, Role},
    model::{Slot, TIED_HEAD},
};

/// Refuses an adapter that cannot be put on a model with these slots. `module_of` gives the name in transformers of the module at a
/// path; `new_blocks` are the layers of the model that are new.
///
/// # Errors
///
/// [`AdapterError`].
pub(crate) fn check(
    config: &AdapterConfig,
    slots: &[Slot],
    module_of: &dyn Fn(&str) -> String,
    new_blocks: &[usize],
) -> Result<(), AdapterError> {
    match config {
        AdapterConfig::Lora(config) => check_new(config, slots),
        AdapterConfig::Folder { folder, .. } => {
            check_file(&AdapterFile::open(folder)?, slots, module_of, new_blocks)
        }
    }
}

/// The module of a weight.
fn module(slot: &Slot) -> Option<&str> {
    slot.name.strip_suffix(".weight")
}

fn check_new(config: &LoraConfig, slots: &[Slot]) -> Result<(), AdapterError> {
    let is_tied = slots.iter().all(|slot| slot.role != Role::Head);
    for pattern in &config.targets {
        let named: Vec<&Slot> = named(slots, pattern).collect();
        let Some(first) = named.first().copied().and_then(module) else {
            return Err(no_target(slots, pattern));
        };
        let is_whole = |slot: &&&Slot| {
            let mut whole = config.whole.iter();
            whole.any(|pattern| names(pattern, slot))
        };
        if named.iter().all(|slot| slot.role == Role::Norm) {
            return Err(AdapterError::NotAdaptable {
                module: first.to_owned(),
                reason: NO_MATRIX,
            });
        }
        if named.iter().all(|slot| is_whole(&slot)) {
            return Err(AdapterError::TargetsWhole {
                pattern: pattern.to_string(),
                module: first.to_owned(),
                count: named.len(),
            });
        }
    }
    for pattern in &config.whole {
        // A head that is the embedding gets a matrix of its own to be trained.
        let unties = is_tied && pattern.is_match(TIED_HEAD, Role::Head);
        if !unties && named(slots, pattern).next().is_none() {
            return Err(no_target(slots, pattern));
        }
    }
    for slot in slots {
        if let (Some(path), &[out, input]) = (module(slot), &slot.shape[..]) {
            check_module(config, slots, path, slot.role, [out, input])?;
        }
    }
    Ok(())
}

/// Refuses new factors of a matrix `[out, in]` that cannot have them.
fn check_module(
    config: &LoraConfig,
    slots: &[Slot],
    path: &str,
    role: Role,
    [out, input]: [usize; 2],
) -> Result<(), AdapterError> {
    let parts = AdapterParts::of(config, path, role, true);
    let chooses = role == Role::Router && !is_gate(Some(out));
    if chooses && (parts.factors || parts.whole || (parts.bias && has_bias(slots, path))) {
        return Err(AdapterError::NotAdaptable {
            module: path.to_owned(),
            reason: CHOOSES,
        });
    }
    let (rank, most) = (rank_of(config, path, role), out.min(input));
    if !parts.factors || (1..=most).contains(&rank) {
        return Ok(());
    }
    // The factors of a table are those of the transposed table.
    let [out, input] = match role {
        Role::Embedding => [input, out],
        _ => [out, input],
    };
    Err(AdapterError::Rank {
        module: path.to_owned(),
        rank,
        out,
        input,
        most,
    })
}

fn names(pattern: &Pattern, slot: &Slot) -> bool {
    module(slot).is_some_and(|path| pattern.is_match(path, slot.role))
}

/// The weights of the modules that a pattern names.
fn named<'s>(slots: &'s [Slot], pattern: &Pattern) -> impl Iterator<Item = &'s Slot> {
    slots.iter().filter(|slot| names(pattern, slot))
}

fn has_bias(slots: &[Slot], path: &str) -> bool {
    let mut slots = slots.iter();
    slots.any(|slot| slot.name.strip_suffix(".bias") == Some(path))
}

fn no_target(slots: &[Slot], pattern: &Pattern) -> AdapterError {
    let mut linear = slots.iter().filter(|slot| slot.role == Role::Linear);
    let first = linear.next().and_then(module);
    AdapterError::NoTarget {
        pattern: pattern.to_string(),
        first: first.unwrap_or("none").to_owned(),
    }
}

fn check_file(
    file: &AdapterFile,
    slots: &[Slot],
    module_of: &dyn Fn(&str) -> String,
    new_blocks: &[usize],
) -> Result<(), AdapterError> {
    let slots: Vec<&Slot> = slots.iter().collect();
    let (sites, numbers) = Sites::of_slots(&slots, module_of);
    let is_tied = slots.iter().all(|slot| slot.role != Role::Head);
    let resolved = sites.resolve(file, |module| is_tied && is_head(module))?;
    expanded::check(file, &sites, new_blocks)?;
    for (nth, found) in numbers.iter().zip(&resolved.found) {
        let slot = slots[*nth];
        let (Some((module, tensors)), &[out, input]) = (found, &slot.shape[..]) else {
            continue;
        };
        if slot.role == Role::Embedding {
            continue;
        }
        let rank = file.config.rank(module);
        let rank = rank.map_err(|reason| file.config_error(reason))?;
        check_shape(file, module, "factor A", tensors.a.as_ref(), [rank, input])?;
        check_shape(file, module, "factor B", tensors.b.as_ref(), [out, rank])?;
    }
    Ok(())
}

fn check_shape(
    file: &AdapterFile,
    module: &str,
    name: &'static str,
    tensor: Option<&StoredTensor>,
    expected: [usize; 2],
) -> Result<(), AdapterError> {
    match tensor {
        Some(tensor) if tensor.shape != expected => Err(AdapterError::Shape {
            adapter: file.name.clone(),
            module: module.to_owned(),
            tensor: name,
            found: tensor.shape.clone(),
            expected: expected.to_vec(),
        }),
        _ => Ok(()),
    }
}
