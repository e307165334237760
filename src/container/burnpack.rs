//! Files that Burn saved: `.bpk`.

use super::{
    ContainerError,
    found::{FoundFile, FoundTensor},
};
use crate::source::{
    Source, SourceExt,
    burnpack::{self, BURNPACK_START_BYTES},
};

/// The tensors of a file.
///
/// # Errors
///
/// [`ContainerError`] for a file that Burn did not save, or that is damaged.
pub(super) fn read(source: &dyn Source, file: &str) -> Result<FoundFile, ContainerError> {
    let label = format!("{}/{file}", source.describe());
    let file_len = source.size(file)?;
    let mut first = [0; BURNPACK_START_BYTES as usize];
    let there = first.len().min(file_len as usize);
    source.peek(file, 0, &mut first[..there])?;
    let length = burnpack::length(&label, &first[..there], file_len)?;
    let mut cbor = vec![0; length as usize];
    source.peek(file, BURNPACK_START_BYTES, &mut cbor)?;
    let header = burnpack::parse(&label, &cbor, file_len)?;
    let tensors = header.tensors.into_iter().map(|tensor| FoundTensor {
        name: tensor.name,
        dtype: tensor.dtype,
        shape: tensor.shape,
        from: tensor.range.start,
        strided: None,
    });
    let scalars = header.scalars;
    let notes = match scalars.is_empty() {
        true => Vec::new(),
        false => vec![format!(
            "{label}: no tensors, and not read: {}",
            scalars.join(", ")
        )],
    };
    Ok(FoundFile {
        tensors: tensors.collect(),
        notes,
    })
}
