//! Files that PyTorch saved: `.bin`, `.pt`, `.pth`, `.ckpt`.
//!
//! ```text
//! zip     NAME/data.pkl (which tensors, in which storages), NAME/byteorder, NAME/data/KEY (a storage each)
//! legacy  five pickles (magic, version, system, tensors, keys), then a count and the bytes of each storage
//! ```
//!
//! (`torch/serialization.py`.) Pickles are not executed: see [`pickle`](crate::source::pickle). Weights are read by their places, as
//! those of safetensors are.
//!
//! Reading order: `state` (which of the tensors are the model) → `legacy`, `archive`.

mod archive;
mod error;
mod legacy;
mod state;

use core::ops::Range;
use std::collections::HashMap;

pub use error::TorchError;

use super::{
    ContainerError,
    found::{FoundFile, FoundTensor},
    strided::Strided,
};
use crate::source::{
    Source, SourceExt,
    pickle::{Pickle, Storage},
};
use state::State;

/// The bytes that a zip archive begins with.
const ZIP: [u8; 4] = *b"PK\x03\x04";

/// The instruction that a pickle begins with.
const PROTO: u8 = 0x80;

/// Where each storage of a file is.
struct Places {
    of: HashMap<usize, Range<u64>>,
    big_endian: bool,
}

/// The tensors of a file.
///
/// # Errors
///
/// [`ContainerError`] for a file that PyTorch did not save, that is damaged, or whose pickle is no dictionary of tensors.
pub(super) fn read(source: &dyn Source, file: &str) -> Result<FoundFile, ContainerError> {
    let label = format!("{}/{file}", source.describe());
    let file_len = source.size(file)?;
    let mut first = [0; 8];
    let there = first.len().min(file_len as usize);
    source.peek(file, 0, &mut first[..there])?;
    if first.starts_with(&ZIP) {
        archive::read(source, file, &label, file_len)
    } else if first[0] == PROTO {
        legacy::read(source, file, &label, file_len)
    } else {
        Err(TorchError::NotTorch {
            file: label,
            found: String::from_utf8_lossy(&first[..there]).into_owned(),
        }
        .into())
    }
}

/// The storages that the tensors of the model lie in.
fn wanted<'p>(pickle: &'p Pickle, state: &State<'p>) -> Vec<(usize, &'p Storage)> {
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
fn found(label: &str, state: State<'_>, places: &Places) -> Result<FoundFile, TorchError> {
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
