//! Matrices that stay in host memory or in a file, and are streamed to the device.

use std::io;

use burn::tensor::{Bytes, Device};
use firebox_kernels::format::{Half, Packed};

use crate::{
    config::StreamFrom,
    model::{
        Role, Slot, Weight,
        stream::{Ring, RingLimits, Shelf, StreamTally, StreamedBytes, StreamedWeight},
    },
    pipeline::{Dense, cut_dense, cut_halves, cut_packed},
    quant::Layout,
};

/// Makes the streamed weights of one model.
#[derive(Debug)]
pub(crate) struct Streamer {
    shelf: Shelf,
    ring: Ring,
    device: Device,
}

impl Streamer {
    /// # Errors
    ///
    /// When no file can be made in the folder of [`StreamFrom::Disk`].
    pub(crate) fn new(device: &Device, keep: &StreamFrom, limits: RingLimits) -> io::Result<Self> {
        Ok(Self {
            shelf: Shelf::new(keep)?,
            ring: Ring::new(device, limits),
            device: device.clone(),
        })
    }

    /// What the ring counts.
    pub(crate) fn tally(&self) -> StreamTally {
        self.ring.tally()
    }

    /// Stores a packed weight, in parts of at most `largest` bytes.
    pub(crate) fn packed(
        &self,
        slot: &Slot,
        packed: Packed,
        largest: Option<u64>,
    ) -> io::Result<Weight> {
        self.weight(slot, cut_packed(packed, largest), |packed| {
            let Packed {
                format,
                shape,
                words,
                scales,
            } = packed;
            Ok(StreamedBytes::Packed {
                layout: Layout { format, shape },
                words: self.shelf.put(Bytes::from_elems(words))?,
                scales: self.shelf.put(Bytes::from_elems(scales))?,
            })
        })
    }

    /// Stores dense values `[out, in]`, in parts of at most `largest` bytes.
    pub(crate) fn dense(
        &self,
        slot: &Slot,
        dense: Dense,
        [rows, cols]: [usize; 2],
        largest: Option<u64>,
    ) -> io::Result<Weight> {
        let (dtype, data) = dense.into_data();
        let row_bytes = cols * dtype.size();
        let parts = cut_dense(data.into_bytes(), row_bytes, largest);
        self.weight(slot, parts, |bytes| {
            // Rows without columns have no bytes to count them by.
            let rows = bytes.len().checked_div(row_bytes).unwrap_or(rows);
            Ok(StreamedBytes::Dense {
                dtype,
                shape: [rows, cols],
                values: self.shelf.put(bytes)?,
            })
        })
    }

    /// Stores halves `[out, in]` that are multiplied as they are stored, in parts of at most `largest` bytes.
    pub(crate) fn halves(
        &self,
        slot: &Slot,
        half: Half,
        dense: Dense,
        shape: [usize; 2],
        largest: Option<u64>,
    ) -> io::Result<Weight> {
        let parts = cut_halves(half, dense, shape, largest);
        self.weight(slot, parts, |(layout, words)| {
            Ok(StreamedBytes::Packed {
                layout,
                words: self.shelf.put(words)?,
                scales: self.shelf.put(Bytes::from_elems(Vec::<u32>::new()))?,
            })
        })
    }

    fn weight<P>(
        &self,
        slot: &Slot,
        parts: Vec<P>,
        store: impl Fn(P) -> io::Result<StreamedBytes>,
    ) -> io::Result<Weight> {
        let part = |part| {
            Ok(StreamedWeight::new(
                &slot.name,
                slot.role == Role::Expert,
                store(part)?,
                &self.ring,
                &self.device,
            ))
        };
        parts
            .into_iter()
            .map(part)
            .collect::<io::Result<_>>()
            .map(Weight::Streamed)
    }
}
