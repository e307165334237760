//! Matrices that stay in host memory or in a file, and are streamed to the device.

use std::{io, path::Path};

use burn::tensor::{Bytes, Device};
use firebox_kernels::format::{Half, Packed};

use crate::{
    config::StreamFrom,
    model::{
        Role, Weight,
        stream::{Ring, RingLimits, Shelf, StreamTally, StreamedBytes, StreamedWeight},
    },
    pipeline::{Dense, cut_dense, cut_halves, cut_packed},
    plan::{Home, Step},
    quant::Layout,
};

/// Makes the streamed weights of one model.
#[derive(Debug)]
pub(crate) struct Streamer {
    host: Shelf,
    disk: Option<Shelf>,
    /// One for each device of the plan.
    rings: Vec<Ring>,
    devices: Vec<Device>,
}

impl Streamer {
    /// `limits` are those of each of the devices, `folder` is for weights that live on disk.
    ///
    /// # Errors
    ///
    /// When no file can be made in the folder.
    pub(crate) fn new(
        devices: &[Device],
        folder: Option<&Path>,
        limits: &[RingLimits],
    ) -> io::Result<Self> {
        let disk = folder.map(|folder| Shelf::new(&StreamFrom::Disk(folder.to_owned())));
        let rings = devices.iter().zip(limits);
        Ok(Self {
            host: Shelf::new(&StreamFrom::Host)?,
            disk: disk.transpose()?,
            rings: rings
                .map(|(device, limits)| Ring::new(device, *limits))
                .collect(),
            devices: devices.to_vec(),
        })
    }

    /// What the rings count.
    pub(crate) fn tally(&self) -> Option<StreamTally> {
        StreamTally::of(self.rings.iter())
    }

    /// Where the bytes of a weight stay.
    fn shelf(&self, step: &Step) -> &Shelf {
        match (step.home, &self.disk) {
            (Home::Disk, Some(disk)) => disk,
            _ => &self.host,
        }
    }

    /// Stores a packed weight, in parts of at most `largest` bytes.
    pub(crate) fn packed(
        &self,
        step: &Step,
        packed: Packed,
        largest: Option<u64>,
    ) -> io::Result<Weight> {
        let shelf = self.shelf(step);
        self.weight(step, cut_packed(packed, largest), |packed| {
            let Packed {
                format,
                shape,
                words,
                scales,
            } = packed;
            Ok(StreamedBytes::Packed {
                layout: Layout { format, shape },
                words: shelf.put(Bytes::from_elems(words))?,
                scales: shelf.put(Bytes::from_elems(scales))?,
            })
        })
    }

    /// Stores dense values `[out, in]`, in parts of at most `largest` bytes.
    pub(crate) fn dense(
        &self,
        step: &Step,
        dense: Dense,
        largest: Option<u64>,
    ) -> io::Result<Weight> {
        let [rows, cols] = step.matrix();
        let shelf = self.shelf(step);
        let (dtype, data) = dense.into_data();
        let row_bytes = cols * dtype.size();
        let parts = cut_dense(data.into_bytes(), row_bytes, largest);
        self.weight(step, parts, |bytes| {
            // Rows without columns have no bytes to count them by.
            let rows = bytes.len().checked_div(row_bytes).unwrap_or(rows);
            Ok(StreamedBytes::Dense {
                dtype,
                shape: [rows, cols],
                values: shelf.put(bytes)?,
            })
        })
    }

    /// Stores halves `[out, in]` that are multiplied as they are stored, in parts of at most `largest` bytes.
    pub(crate) fn halves(
        &self,
        step: &Step,
        half: Half,
        dense: Dense,
        largest: Option<u64>,
    ) -> io::Result<Weight> {
        let shelf = self.shelf(step);
        let parts = cut_halves(half, dense, step.matrix(), largest);
        self.weight(step, parts, |(layout, words)| {
            Ok(StreamedBytes::Packed {
                layout,
                words: shelf.put(words)?,
                scales: shelf.put(Bytes::from_elems(Vec::<u32>::new()))?,
            })
        })
    }

    fn weight<P>(
        &self,
        step: &Step,
        parts: Vec<P>,
        store: impl Fn(P) -> io::Result<StreamedBytes>,
    ) -> io::Result<Weight> {
        let part = |part| {
            Ok(StreamedWeight::new(
                &step.slot.name,
                step.slot.role == Role::Expert,
                store(part)?,
                &self.rings[step.device],
                &self.devices[step.device],
            ))
        };
        parts
            .into_iter()
            .map(part)
            .collect::<io::Result<_>>()
            .map(Weight::Streamed)
    }
}
