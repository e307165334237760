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
//! Reading order: `state` (which of the tensors are the model) → `places` → `legacy`, `archive`.

mod archive;
mod error;
mod legacy;
mod places;
mod state;

pub use error::TorchError;

use super::{ContainerError, found::FoundFile};
use crate::source::{Source, SourceExt};

/// The bytes that a zip archive begins with.
const ZIP: [u8; 4] = *b"PK\x03\x04";

/// The instruction that a pickle begins with.
const PROTO: u8 = 0x80;

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
