//! Pickles of PyTorch: bytes to tensors and the names that they lie under. Nothing is executed, and there is no I/O.
//!
//! A pickle is a program for a machine with a stack and a memo. [`parse`] carries out the instructions that build lists,
//! dictionaries and numbers, and knows a few names besides: those that a dictionary of tensors needs. Python would import any
//! name and call it, so every other name is refused where it stands, whether it would be called or not.
//!
//! Objects refer to each other by number. So a pickle that nests deeply, that refers to itself or to one list a million times
//! takes no more memory than its bytes say, and the code that walks through the objects bounds the walk.
//!
//! Reading order: `cursor` → `object` → `globals` (the names) → `call` (what they make) → `opcodes` → `machine`.

mod call;
mod cursor;
mod error;
mod globals;
mod machine;
mod object;
mod opcodes;

use super::dtype::StoredType;
pub(crate) use error::PICKLE_BYTES_MAX;
pub use error::PickleError;
pub(crate) use object::{ObjectId, Pickle, PickleObject, PickleParsed, PickledTensor, Storage};

/// The pickle that `bytes` begins with. `file` is a name for messages, and `offset` that of `bytes` in it.
///
/// # Errors
///
/// A [`PickleError`] that names the instruction or the global, and its place.
pub(crate) fn parse(file: &str, bytes: &[u8], offset: u64) -> Result<PickleParsed, PickleError> {
    machine::run(file, bytes, offset)
}
