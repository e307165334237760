//! The dense values of a weight: plain ones as they are stored, and those of what the checkpoint has packed, unpacked.

use core::ops::Range;

use rayon::ThreadPool;

use super::{
    pieces::{Pieces, Stretch},
    unpack::{RowError, Unpacked},
};
use crate::{
    plan::{Step, Stored},
    source::SourceError,
};

/// The dense values of a weight, in the order of its rows, as bytes.
#[derive(Debug, Clone)]
pub(crate) enum SourceValues {
    /// As they are stored.
    Plain(Pieces),
    /// Values of `f32` that a packed weight has.
    Packed(Unpacked),
}

impl SourceValues {
    /// The values that a step packs, or takes over.
    pub(crate) fn of(step: &Step) -> Self {
        match &step.stored {
            Stored::Packed(adopt) => Self::Packed(Unpacked::new(adopt, step.matrix())),
            Stored::Plain(_) | Stored::Other(_) => Self::Plain(Pieces::of(step)),
        }
    }

    /// Number of bytes.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Plain(pieces) => pieces.bytes(),
            Self::Packed(unpacked) => unpacked.bytes(),
        }
    }

    /// Rows that tiles had better be multiples of.
    pub(super) fn rows_together(&self) -> usize {
        match self {
            Self::Plain(_) => 1,
            Self::Packed(unpacked) => unpacked.rows_together(),
        }
    }

    /// The range of a file that holds bytes `range` as they are, if a single one does.
    pub(super) fn stretch(&self, range: &Range<usize>) -> Option<Stretch<'_>> {
        match self {
            Self::Plain(pieces) => pieces.stretch(range),
            Self::Packed(_) => None,
        }
    }

    /// Fills `into` with the bytes that begin with the one at `start`: whole rows, where they are unpacked, which is spread
    /// over `workers`. `read` fills memory from an offset of a file on. Returns how many bytes were read.
    pub(super) fn fill(
        &self,
        start: usize,
        into: &mut [u8],
        workers: &ThreadPool,
        read: impl FnMut(&str, u64, &mut [u8]) -> Result<(), SourceError>,
    ) -> Result<u64, RowError> {
        match self {
            Self::Plain(pieces) => {
                pieces.fill(start, into, read)?;
                Ok(into.len() as u64)
            }
            Self::Packed(unpacked) => unpacked.fill(start, into, workers, read),
        }
    }
}
