//! A packed weight in host memory.

use super::Format;
use crate::format::error::FormatError;

/// A packed weight in host memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// The meaning of the words.
    pub format: Format,
    /// `[o, i]` of the weight, not of the words.
    pub shape: [usize; 2],
    /// Codes: [`Format::words_len`] words.
    pub words: Vec<u32>,
    /// Scales: [`Format::scales_len`] words.
    pub scales: Vec<u32>,
}

impl Packed {
    /// A weight from its buffers.
    ///
    /// # Errors
    ///
    /// As [`Format::validate_shape`] for a format that cannot be or not in this shape,
    /// [`FormatError::Length`] when a buffer does not hold what shape and format imply, and
    /// [`FormatError::Order`].
    pub fn new(
        format: Format,
        shape: [usize; 2],
        words: Vec<u32>,
        scales: Vec<u32>,
    ) -> Result<Self, FormatError> {
        format.validate_shape(shape)?;
        let length = |buffer, found, needed| {
            let [rows, cols] = shape;
            let format = format.to_string();
            FormatError::Length {
                buffer,
                found,
                needed,
                format,
                rows,
                cols,
            }
        };
        let needed = format.words_len(shape);
        if words.len() != needed {
            return Err(length("words", words.len(), needed));
        }
        let needed = format.scales_len(shape);
        if scales.len() != needed {
            return Err(length("scales", scales.len(), needed));
        }
        if let Format::Affine(affine) = format {
            affine.check_list(shape, &scales)?;
        }
        Ok(Self {
            format,
            shape,
            words,
            scales,
        })
    }

    /// Bytes of words and scales together.
    pub const fn bytes(&self) -> usize {
        4 * (self.words.len() + self.scales.len())
    }
}

/// A packed weight from `first_row` on.
#[derive(Clone, Copy)]
pub(crate) struct PackedRows<'a> {
    /// Of the whole weight, as are its words and scales.
    pub(crate) shape: [usize; 2],
    pub(crate) words: &'a [u32],
    pub(crate) scales: &'a [u32],
    pub(crate) first_row: usize,
}
