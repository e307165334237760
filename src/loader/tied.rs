//! A head that the checkpoint has although its configuration takes the embedding for the head.
//!
//! As in transformers 5 the values decide: a head with other values is the head of the model, a copy is not needed. Somebody
//! trained or merged the head and left `tie_word_embeddings` as it was.

use super::engine::Engine;
use crate::{
    error::Error,
    source::{SourceError, TensorInfo},
};

/// Bytes that are compared at once.
const CHUNK: u64 = 1 << 20;

impl Engine {
    /// Whether the checkpoint has an embedding and a head, and their tensors differ in any byte. Reads both up to the first
    /// byte that differs, once.
    pub(super) fn differ(&self, [embedding, head]: &[String; 2]) -> Result<bool, Error> {
        if let Some(known) = self.untied.get() {
            return Ok(known.is_some());
        }
        let other = self.other(embedding, head)?;
        Ok(self.untied.get_or_init(|| other).is_some())
    }

    /// A tensor of the head that the embedding has not, or has otherwise.
    fn other(&self, embedding: &str, head: &str) -> Result<Option<String>, Error> {
        let catalog = self.checkpoint().catalog();
        let module = |tensor: &str| tensor.strip_suffix("weight").map(str::to_owned);
        let (Some(table), Some(own)) = (module(embedding), module(head)) else {
            return Ok(None);
        };
        if catalog.get(embedding).is_none() {
            return Ok(None);
        }
        // Packed, it is several tensors. A bias is no sign of a matrix.
        let parts = catalog.iter().filter_map(|tensor| {
            let part = tensor.name.strip_prefix(&own)?;
            (part != "bias").then_some((tensor, part))
        });
        for (tensor, part) in parts {
            let same = match catalog.get(&format!("{table}{part}")) {
                Some(twin) => self.equal(tensor, twin)?,
                None => false,
            };
            if !same {
                return Ok(Some(tensor.name.to_string()));
            }
        }
        Ok(None)
    }

    fn equal(&self, one: &TensorInfo, other: &TensorInfo) -> Result<bool, SourceError> {
        if (one.dtype, &one.shape) != (other.dtype, &other.shape) {
            return Ok(false);
        }
        let source = self.checkpoint().source();
        let (mut left, mut right) = (Vec::new(), Vec::new());
        let mut at = 0;
        while at < one.bytes() {
            let len = CHUNK.min(one.bytes() - at) as usize;
            for (tensor, bytes) in [(one, &mut left), (other, &mut right)] {
                bytes.resize(len, 0);
                source.read_at(&tensor.file, tensor.range.start + at, bytes)?;
            }
            if left != right {
                return Ok(false);
            }
            at += len as u64;
        }
        Ok(true)
    }
}
