//! Some rows of a tensor, on their way from the reader to a converter.

use burn::tensor::Bytes;

use super::in_flight::{Loan, Permit};
use crate::{observe::Span, source};

/// Some rows of a tensor, as the checkpoint stores them.
pub(super) struct SourceTile<'a> {
    /// How often the tensor was read before; for a packed weight, which of its tensors this is.
    pub(super) pass: usize,
    pub(super) first_row: usize,
    pub(super) rows: usize,
    /// When the tile was read, and unpacked where the checkpoint has it packed.
    pub(super) read: Span,
    /// Bytes that were read of the checkpoint.
    pub(super) bytes_read: u64,
    pub(super) memory: TileMemory<'a>,
}

/// The memory that a tile is in, and its share of the byte budget.
pub(super) enum TileMemory<'a> {
    /// A buffer that is used again.
    Host(Loan<'a>),
    /// A buffer that a device takes. Zeros fill its last `u32`.
    Staged(Bytes, Permit<'a>),
    /// Memory of the source. It takes host memory like a buffer does, so it counts.
    Shared(source::Bytes, Permit<'a>),
}

/// Keeps the bytes of a tile counted until a device has taken them.
pub(super) enum UntilTaken<'a> {
    Loan(#[expect(dead_code, reason = "held until it is dropped")] Loan<'a>),
    Permit(#[expect(dead_code, reason = "held until it is dropped")] Permit<'a>),
}

impl<'a> SourceTile<'a> {
    pub(super) fn bytes(&self) -> &[u8] {
        match &self.memory {
            TileMemory::Host(loan) => loan.bytes(),
            TileMemory::Staged(bytes, _) => bytes,
            TileMemory::Shared(bytes, _) => bytes,
        }
    }

    /// The bytes, to be changed by `change`. The source's own bytes are copied first.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut [u8])) {
        match &mut self.memory {
            TileMemory::Host(loan) => change(loan.bytes_mut()),
            TileMemory::Staged(bytes, _) => change(bytes),
            TileMemory::Shared(bytes, _) => {
                let mut copy = bytes.to_vec();
                change(&mut copy);
                *bytes = copy.into();
            }
        }
    }

    /// The bytes for a device, in whole `u32`s. Bytes that are not staged yet are copied.
    pub(super) fn into_staged(self) -> (Bytes, UntilTaken<'a>) {
        let copied = |bytes: &[u8]| {
            let mut words = vec![0_u32; bytes.len().div_ceil(size_of::<u32>())];
            bytemuck::cast_slice_mut(&mut words)[..bytes.len()].copy_from_slice(bytes);
            Bytes::from_elems(words)
        };
        match self.memory {
            TileMemory::Staged(bytes, permit) => (bytes, UntilTaken::Permit(permit)),
            TileMemory::Shared(bytes, permit) => (copied(&bytes), UntilTaken::Permit(permit)),
            TileMemory::Host(loan) => (copied(loan.bytes()), UntilTaken::Loan(loan)),
        }
    }
}
