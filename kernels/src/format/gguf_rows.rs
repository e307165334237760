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

    /// The type that llama.cpp takes in the place of this one for rows of `cols` weights: itself where they are whole blocks, one of
    /// smaller blocks where those fit; `None` where none does (`tensor_type_fallback` of `llama-quant.cpp`).
    pub const fn fitting(self, cols: usize) -> Option<Self> {
        let other = match self {
            _ if cols.is_multiple_of(self.block()) => return Some(self),
            Self::Q2K | Self::Q3K | Self::Tq1_0 | Self::Tq2_0 | Self::Q2_0 => Self::Q4_0,
            Self::Q4K => Self::Q5_0,
            Self::Q5K => Self::Q5_1,
            Self::Q6K => Self::Q8_0,
            Self::Iq1S
            | Self::Iq1M
            | Self::Iq2Xxs
            | Self::Iq2Xs
            | Self::Iq2S
            | Self::Iq3Xxs
            | Self::Iq3S
            | Self::Iq4Xs => Self::Iq4Nl,
            _ => return None,
        };
        match cols.is_multiple_of(other.block()) {
            true => Some(other),
            false => None,
        }
    }
}
