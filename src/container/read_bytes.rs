//! A way to read bytes.

use crate::source::SourceError;

/// Reads bytes of a file from an offset on.
pub(super) type ReadBytes<'a> = &'a dyn Fn(u64, &mut [u8]) -> Result<(), SourceError>;
