//! Rows that blocks of GGUF files can hold.

use super::{error::FormatError, gguf::Gguf};

impl Gguf {
    /// Refuses rows that are not whole blocks.
    pub(crate) const fn check_columns(self, cols: usize) -> Result<(), FormatError> {
        if cols.is_multiple_of(self.block()) {
            Ok(())
        } else {
            Err(FormatError::BlockColumns { cols, kind: self })
        }
    }
}
