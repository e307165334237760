//! The parameters that an adapter brings, module by module.

use super::{
    AdapterConfig, AdapterError, AdapterFile, LoraConfig, TrainedBiases, complete::is_gate,
    sites::Sites,
};
use crate::{
    config::{Pattern, Role},
    model::{Slot, TIED_HEAD},
};

/// What new factors bring to one module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AdapterParts {
    /// Factors.
    pub(crate) factors: bool,
    /// A matrix in the place of the other one.
    pub(crate) whole: bool,
    /// A bias in the place of the other one, where there is one.
    pub(super) bias: bool,
}

impl AdapterParts {
    /// What a module gets, by its path and purpose.
    pub(crate) fn of(config: &LoraConfig, path: &str, role: Role, has_matrix: bool) -> Self {
        let names =
            |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.is_match(path, role));
        let whole = names(&config.whole);
        let targeted = match config.targets.is_empty() {
            true => role == Role::Linear,
            false => names(&config.targets),
        };
        let factors = targeted && !whole && has_matrix;
        // A module that is trained whole is trained with its bias, as peft has it.
        let bias = whole
            || match config.biases {
                TrainedBiases::None => false,
                TrainedBiases::Adapted => factors,
                TrainedBiases::All => true,
            };
        Self {
            factors,
            whole,
            bias,
        }
    }
}

/// The rank of the factors of a module.
pub(crate) fn rank_of(config: &LoraConfig, path: &str, role: Role) -> usize {
    of(&config.ranks, path, role).unwrap_or(config.rank)
}

/// The value of the first pattern that names a module.
pub(super) fn of<V: Copy>(values: &[(Pattern, V)], path: &str, role: Role) -> Option<V> {
    let mut values = values.iter();
    let found = values.find(|(pattern, _)| pattern.is_match(path, role));
    found.map(|(_, value)| *value)
}

/// How many values an adapter keeps beside the weights of a model with these slots, in `f32`. `module_of` gives the name in
/// transformers of the module at a path.
///
/// # Errors
///
/// [`AdapterError`] where its files cannot be read.
pub(crate) fn values(
    config: &AdapterConfig,
    slots: &[&Slot],
    module_of: &dyn Fn(&str) -> String,
) -> Result<u64, AdapterError> {
    match config {
        AdapterConfig::Folder { folder, .. } => {
            let (sites, _) = Sites::of_slots(slots, module_of);
            let file = AdapterFile::open(folder)?;
            Ok(file.values_of(|module| !sites.is_beside(module)) as u64)
        }
        AdapterConfig::Lora(config) => {
            let mut values: usize = slots.iter().map(|slot| added(config, slot, slots)).sum();
            let head = slot_of(slots, TIED_HEAD, ".weight");
            let trains_head = AdapterParts::of(config, TIED_HEAD, Role::Head, true).whole;
            if let (None, true) = (head, trains_head) {
                // A tied head is untied to be trained: it gets a copy of the embedding's matrix.
                let table = slots.iter().find(|slot| slot.role == Role::Embedding);
                values += table.map_or(0, |table| table.shape.iter().product());
            }
            Ok(values as u64)
        }
    }
}

/// The values that new factors add to one matrix or norm, and the bias beside it.
fn added(config: &LoraConfig, slot: &Slot, slots: &[&Slot]) -> usize {
    let module = slot.name.strip_suffix(".weight");
    let Some(module) = module else { return 0 };
    let matrix = match (slot.role, &slot.shape[..]) {
        // The factors of a table are those of the transposed table.
        (Role::Embedding, &[rows, cols]) => Some([cols, rows]),
        (Role::Linear | Role::Head | Role::Expert, &[out, r#in]) => Some([out, r#in]),
        (Role::Router, &[out, r#in]) if is_gate(Some(out)) => Some([out, r#in]),
        (Role::Norm, _) => None,
        _ => return 0,
    };
    let parts = AdapterParts::of(config, module, slot.role, matrix.is_some());
    let values = |slot: &Slot| slot.shape.iter().product::<usize>();
    let factors = matrix.filter(|_| parts.factors).map_or(0, |[out, r#in]| {
        let magnitude = if config.dora { out } else { 0 };
        // A rank above is refused when the adapter is put on.
        let rank = rank_of(config, module, slot.role).min(out.min(r#in));
        rank * (out + r#in) + magnitude
    });
    let whole = if parts.whole { values(slot) } else { 0 };
    let bias = parts.bias.then(|| slot_of(slots, module, ".bias"));
    factors + whole + bias.flatten().map_or(0, values)
}

/// A slot of a module.
fn slot_of<'s>(slots: &[&'s Slot], module: &str, end: &str) -> Option<&'s Slot> {
    let is_it = |slot: &&&Slot| slot.name.strip_suffix(end) == Some(module);
    slots.iter().find(is_it).copied()
}
