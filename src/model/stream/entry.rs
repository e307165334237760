//! A streamed weight where it stays, and how it becomes a tensor of its device.

use std::io;

use burn::tensor::{Bytes, DType as BurnDType, Device, Tensor, TensorData};

use super::shelf::Shelved;
use crate::{
    quant::{Layout, PackedWeight},
    target::{DType, ToBurn},
};

/// The state that all clones of a streamed weight share.
#[derive(Debug)]
pub(super) struct StreamedEntry {
    /// Unique in the process.
    pub(super) id: u64,
    /// Its name in the checkpoint.
    pub(super) name: String,
    /// Whether no order foretells when it is needed.
    pub(super) is_expert: bool,
    pub(super) stored: StreamedBytes,
}

/// The bytes of a streamed weight where they stay.
#[derive(Debug)]
pub(crate) enum StreamedBytes {
    Packed {
        layout: Layout,
        words: Shelved,
        scales: Shelved,
    },
    Dense {
        dtype: DType,
        shape: [usize; 2],
        values: Shelved,
    },
}

/// A weight on its device.
#[derive(Debug)]
pub(super) enum Placed {
    Packed(PackedWeight),
    Dense(Tensor<2>),
}

impl StreamedEntry {
    pub(super) fn bytes(&self) -> u64 {
        let bytes = match &self.stored {
            StreamedBytes::Packed { words, scales, .. } => words.len() + scales.len(),
            StreamedBytes::Dense { values, .. } => values.len(),
        };
        bytes as u64
    }

    /// Whether ranks have some bytes each.
    pub(super) fn is_apart(&self) -> bool {
        let (StreamedBytes::Packed { words: bytes, .. }
        | StreamedBytes::Dense { values: bytes, .. }) = &self.stored;
        bytes.is_apart()
    }

    pub(super) fn place(&self, device: &Device) -> io::Result<Placed> {
        Ok(match &self.stored {
            StreamedBytes::Packed {
                layout,
                words,
                scales,
            } => {
                let place = |bytes: Bytes| {
                    let len = bytes.len() / size_of::<u32>();
                    let data = TensorData::from_bytes(bytes, [len], BurnDType::U32);
                    Tensor::from_data(data, (device, BurnDType::U32))
                };
                let [words, scales] = [place(words.all()?), place(scales.all()?)];
                Placed::Packed(PackedWeight::new(words, scales, *layout))
            }
            StreamedBytes::Dense {
                dtype,
                shape,
                values,
            } => {
                let dtype = BurnDType::from(dtype.burn());
                let data = TensorData::from_bytes(values.all()?, *shape, dtype);
                Placed::Dense(Tensor::from_data(data, (device, dtype)))
            }
        })
    }

    pub(super) fn shape(&self) -> [usize; 2] {
        match &self.stored {
            StreamedBytes::Packed { layout, .. } => layout.shape,
            StreamedBytes::Dense { shape, .. } => *shape,
        }
    }
}
