//! From the places of storages to those of tensors.

use core::ops::Range;
use std::collections::HashMap;

use super::{TorchError, state::State};
use crate::{
    container::{
        found::{FoundFile, FoundTensor},
        strided::Strided,
    },
    source::pickle::{Pickle, Storage},
};

/// Where each storage of a file is.
pub(super) struct StoragePlaces {
    pub(super) of: HashMap<usize, Range<u64>>,
    pub(super) big_endian: bool,
}

/// The storages that the tensors of the model lie in.
pub(super) fn wanted<'p>(pickle: &'p Pickle, state: &State<'p>) -> Vec<(usize, &'p Storage)> {
    let mut wanted: Vec<usize> = state
        .tensors
        .iter()
        .map(|(_, found)| found.storage)
        .collect();
    wanted.sort_unstable();
    wanted.dedup();
    let storages = wanted.into_iter();
    storages.map(|nth| (nth, &pickle.storages[nth])).collect()
}

/// The tensors of the model in the storages of a file.
pub(super) fn found(
    label: &str,
    state: State<'_>,
    places: &StoragePlaces,
) -> Result<FoundFile, TorchError> {
    let tensors = state.tensors.into_iter().map(|(name, tensor)| {
        let (shape, strides) = (&tensor.shape, &tensor.strides);
        let strided = Strided::new(tensor.dtype, shape, strides, places.big_endian);
        let strided = strided.map_err(|_| TorchError::Overlapping {
            file: label.to_owned(),
            tensor: name.clone(),
            shape: shape.clone(),
            strides: strides.clone(),
        })?;
        Ok(FoundTensor {
            name,
            dtype: tensor.dtype,
            shape: shape.clone(),
            // The view is inside its storage, and that in the file.
            from: places.of[&tensor.storage].start + tensor.offset * tensor.dtype.bits() / 8,
            strided,
        })
    });
    Ok(FoundFile {
        tensors: tensors.collect::<Result<_, TorchError>>()?,
        notes: state.notes,
    })
}
