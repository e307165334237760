//! Matrices that stay in host memory or in a file, and are streamed to the device.

use std::io;

use burn::tensor::{Bytes, Device};
use firebox_kernels::format::Packed;

use crate::{
    config::Keep,
    model::{
        Weight,
        stream::{Kept, Limits, Ring, Shelf, StreamedWeight},
    },
    pipeline::Dense,
    quant::Layout,
};

/// Makes the streamed weights of one model.
#[derive(Debug)]
pub(crate) struct Stream {
    shelf: Shelf,
    ring: Ring,
    device: Device,
}

impl Stream {
    /// # Errors
    ///
    /// When no file can be made in the folder of [`Keep::Disk`].
    pub(crate) fn new(device: &Device, keep: &Keep, limits: Limits) -> io::Result<Self> {
        Ok(Self {
            shelf: Shelf::new(keep)?,
            ring: Ring::new(device, limits),
            device: device.clone(),
        })
    }

    /// Keeps a packed weight, in parts of at most `largest` bytes.
    pub(crate) fn packed(
        &self,
        name: &str,
        packed: Packed,
        largest: Option<u64>,
    ) -> io::Result<Weight> {
        let cut = largest.and_then(|largest| packed.format.cut(packed.shape, largest));
        let parts = match cut {
            Some(parts) if parts.len() > 1 => {
                parts.into_iter().map(|rows| packed.part(rows)).collect()
            }
            _ => vec![packed],
        };
        self.weight(name, parts, |packed| {
            let Packed {
                format,
                shape,
                words,
                scales,
            } = packed;
            Ok(Kept::Packed {
                layout: Layout { format, shape },
                words: self.shelf.put(Bytes::from_elems(words))?,
                scales: self.shelf.put(Bytes::from_elems(scales))?,
            })
        })
    }

    /// Keeps plain numbers `[out, in]`, in parts of at most `largest` bytes.
    pub(crate) fn dense(
        &self,
        name: &str,
        dense: Dense,
        [rows, cols]: [usize; 2],
        largest: Option<u64>,
    ) -> io::Result<Weight> {
        let (dtype, data) = dense.into_data();
        let row = cols * dtype.size();
        let together = largest.map_or(rows, |largest| {
            usize::try_from(largest).map_or(rows, |largest| largest / row.max(1))
        });
        let together = together.max(1);
        let bytes = data.into_bytes();
        let parts = if together >= rows {
            vec![(rows, bytes)]
        } else {
            let parts = bytes.chunks(together * row);
            let part = |part: &[u8]| (part.len() / row, Bytes::from_bytes_vec(part.to_vec()));
            parts.map(part).collect()
        };
        self.weight(name, parts, |(rows, bytes)| {
            Ok(Kept::Dense {
                dtype,
                shape: [rows, cols],
                values: self.shelf.put(bytes)?,
            })
        })
    }

    fn weight<P>(
        &self,
        name: &str,
        parts: Vec<P>,
        keep: impl Fn(P) -> io::Result<Kept>,
    ) -> io::Result<Weight> {
        let part = |part| {
            Ok(StreamedWeight::new(
                name,
                keep(part)?,
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
