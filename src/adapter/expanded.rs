//! Adapters of a model before it was expanded, whose layers have other numbers.

use super::{
    error::AdapterError,
    file::AdapterFile,
    sites::{Sites, layer},
};
use crate::model::Architecture;

/// Refuses an adapter of a model before it was expanded by `new_blocks`.
///
/// # Errors
///
/// [`AdapterError::BeforeExpansion`].
pub(crate) fn check_numbers<A: Architecture>(
    model: &mut A,
    file: &AdapterFile,
    new_blocks: &[usize],
) -> Result<(), AdapterError> {
    check(file, &Sites::of_model(&model.adaptable()), new_blocks)
}

/// Refuses an adapter that was trained before `new_blocks` came between the layers of the model: its layers have other numbers
/// from the first of them on. It was trained on the expanded model where its configuration says so, where it changes more layers
/// than the model had before, and where it changes new blocks alone.
///
/// # Errors
///
/// [`AdapterError::BeforeExpansion`].
pub(super) fn check(
    file: &AdapterFile,
    sites: &Sites,
    new_blocks: &[usize],
) -> Result<(), AdapterError> {
    let layers = sites.iter().filter_map(|site| layer(&site.module)).max();
    let layers = layers.map_or(0, |last| last + 1);
    let changed: Vec<usize> = file.modules().filter_map(layer).collect();
    let (Some(first_new), Some(last)) = (new_blocks.first(), changed.iter().max()) else {
        return Ok(());
    };
    let of_expanded = file
        .config
        .new_blocks()
        .is_some_and(|known| known == new_blocks)
        || last < first_new
        || last + new_blocks.len() >= layers
        || changed.iter().all(|layer| new_blocks.contains(layer));
    match of_expanded {
        true => Ok(()),
        false => Err(AdapterError::BeforeExpansion {
            adapter: file.name.clone(),
            last: *last,
            layers,
            new_blocks: new_blocks.to_vec(),
        }),
    }
}
