//! A weight of a module that lies elsewhere, and is brought to its device when it is multiplied.

use core::ops::Range;
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use burn::{
    module::{
        Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor,
    },
    tensor::{DType as BurnDType, Device, FloatDType, Int, Tensor, TensorData},
};
use firebox_kernels::{
    format::{Format, Packed},
    linear::{self, Compute},
};

use crate::quant::gradient;
use crate::{
    quant::{Layout, ops},
    target::ToBurn,
};

use super::{
    entry::{Placed, StreamedBytes, StreamedEntry},
    ring::{Fetched, Ring},
    shelf::{Shelved, room},
};

/// A matrix `[out, in]` that stays in host memory or in a file, and is on a device only while it is multiplied.
///
/// Products and gradients are bit-exact with those of the same matrix on the device. The device holds nothing of the
/// matrix between forward and backward pass: the backward pass fetches it once more.
///
/// For Burn's modules it has no parameters: it is not visited, trained or recorded
/// ([`Loader::save`](crate::Loader::save) writes checkpoints). [`num_params`](Module::num_params) counts its values all the same. Moving a module to another device makes its
/// weights stream there.
#[derive(Debug, Clone)]
pub struct StreamedWeight {
    entry: Arc<StreamedEntry>,
    ring: Ring,
    /// The device of the ring, which records gradients if the module does.
    device: Device,
    /// The arithmetic of its products.
    compute: Compute,
}

/// A weight that stays on the device as long as this is there.
#[derive(Debug)]
pub(crate) struct HeldWeight(#[expect(dead_code, reason = "it is kept, not read")] Arc<Fetched>);

impl StreamedWeight {
    /// The weight `name`, which `ring` brings to `device`; whether it is one of many experts.
    pub(crate) fn new(
        name: &str,
        is_expert: bool,
        stored: StreamedBytes,
        ring: &Ring,
        device: &Device,
    ) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let entry = StreamedEntry {
            id: COUNT.fetch_add(1, Ordering::Relaxed),
            name: name.to_owned(),
            is_expert,
            stored,
        };
        Self {
            entry: Arc::new(entry),
            ring: ring.clone(),
            device: device.clone(),
            compute: Compute::F32,
        }
    }

    /// The same weight, multiplied in another arithmetic.
    pub(crate) fn computing(mut self, compute: Compute) -> Self {
        self.compute = compute;
        self
    }

    /// `[out, in]`.
    pub fn shape(&self) -> [usize; 2] {
        self.entry.shape()
    }

    /// The format that it is packed in; `None` where it is dense.
    pub fn format(&self) -> Option<Format> {
        match &self.entry.stored {
            StreamedBytes::Packed { layout, .. } => Some(layout.format),
            StreamedBytes::Dense { .. } => None,
        }
    }

    /// Bytes that it takes where it stays, and the same on the device while it is there.
    pub fn bytes(&self) -> u64 {
        self.entry.bytes()
    }

    /// The ring that brings it to its device.
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// The device that it is brought to.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// Keeps a weight of which ranks have some bytes each on the device, until what is returned is dropped. All ranks hold the same weights
    /// in the same order; between, each may multiply as often as it likes. Other weights are streamed as always.
    ///
    /// # Panics
    ///
    /// As [`product`](Self::product).
    pub(crate) fn hold(&self) -> Option<HeldWeight> {
        let hold = || HeldWeight(self.ring.hold(&self.entry));
        self.entry.is_apart().then(hold)
    }

    /// `x` `[m, in]` times the transposed weight: `[m, out]`.
    ///
    /// # Panics
    ///
    /// When the weight cannot be read from its file, or the device fails; in the backward pass too.
    pub fn product(&self, x: Tensor<2>) -> Tensor<2> {
        let product = |x: Tensor<2>| {
            self.ring.lend(&self.entry, |placed| match placed {
                Placed::Packed(packed) => ops::linear_in(self.compute, x, packed),
                Placed::Dense(weight) => x.matmul(weight.clone().transpose()),
            })
        };
        if x.is_autodiff() {
            let y = product(x.clone().without_autodiff());
            let (ring, entry) = (self.ring.clone(), Arc::clone(&self.entry));
            return gradient::attach(x, y, move |dy| {
                ring.lend(&entry, |placed| match placed {
                    Placed::Packed(packed) => gradient::of_input(dy, packed),
                    // Transposed twice, as Burn's own backward pass has it: the same kernel, the same bits.
                    Placed::Dense(weight) => dy.matmul(weight.clone().transpose().transpose()),
                })
            });
        }
        product(x)
    }

    /// The rows with indices `ids` `[m]`, as `[m, in]`; packed rows are dequantized to `dtype`. The host looks them up,
    /// so that only these rows go to the device. Of a file, only these rows and their neighbours in one packed part are
    /// read.
    ///
    /// # Panics
    ///
    /// When an index is not below the number of rows, or the weight cannot be read from its file.
    pub fn rows(&self, ids: Tensor<1, Int>, dtype: FloatDType) -> Tensor<2> {
        if let Some(held) = self.ring.held(&self.entry) {
            return match held.placed() {
                Placed::Packed(packed) => ops::rows(ids, packed, dtype),
                Placed::Dense(weight) => weight.clone().select(0, ids),
            };
        }
        let [rows, cols] = self.shape();
        let ids: Vec<usize> = ids
            .into_data()
            .iter::<i64>()
            .map(|id| {
                let row = usize::try_from(id).ok().filter(|row| *row < rows);
                row.unwrap_or_else(|| panic!("{}: no row {id} of {rows}", self.entry.name))
            })
            .collect();
        let data = self.host_rows(&ids, cols, dtype);
        let data = data.unwrap_or_else(|error| {
            let name = &self.entry.name;
            panic!("{name}: a streamed weight cannot be read: {error}")
        });
        let dtype = data.dtype();
        self.ring.count(data.as_bytes().len() as u64);
        Tensor::from_data(data, (&self.device.clone().without_autodiff(), dtype))
    }

    fn host_rows(&self, ids: &[usize], cols: usize, dtype: FloatDType) -> io::Result<TensorData> {
        let shape = [ids.len(), cols];
        match &self.entry.stored {
            StreamedBytes::Dense { dtype, values, .. } => {
                let row = cols * dtype.size();
                let mut found = room(ids.len() * row);
                let whole = values.is_whole().then(|| values.all()).transpose()?;
                for (id, found) in ids.iter().zip(found.chunks_exact_mut(row.max(1))) {
                    match &whole {
                        Some(whole) => found.copy_from_slice(&whole[id * row..][..row]),
                        None => values.read(id * row, found)?,
                    }
                }
                let dtype = BurnDType::from(dtype.burn());
                Ok(TensorData::from_bytes(found, shape, dtype))
            }
            StreamedBytes::Packed {
                layout,
                words,
                scales,
            } => {
                let mut found = vec![0.0; ids.len() * cols];
                if words.is_whole() && scales.is_whole() {
                    let whole = [words.all()?, scales.all()?];
                    let [words, scales] = whole.each_ref().map(|part| bytemuck::cast_slice(part));
                    unpack(*layout, words, scales, ids, &mut found);
                } else {
                    for (id, found) in ids.iter().zip(found.chunks_exact_mut(cols.max(1))) {
                        let (part, first) = part_around(*layout, words, scales, *id)?;
                        let layout = Layout {
                            format: part.format,
                            shape: part.shape,
                        };
                        unpack(layout, &part.words, &part.scales, &[id - first], found);
                    }
                }
                Ok(TensorData::new(found, shape).convert_dtype(dtype.into()))
            }
        }
    }

    /// The whole weight on its device, packed words in `dtype`.
    ///
    /// # Panics
    ///
    /// As [`product`](Self::product).
    pub fn to_dense(&self, dtype: FloatDType) -> Tensor<2> {
        self.ring.lend(&self.entry, |placed| match placed {
            Placed::Packed(packed) => ops::dequantize(packed, dtype),
            Placed::Dense(weight) => weight.clone(),
        })
    }

    /// Its words and scales in host memory; `None` where it is dense.
    ///
    /// # Panics
    ///
    /// As [`product`](Self::product).
    pub(crate) fn to_packed(&self) -> Option<Packed> {
        self.ring.lend(&self.entry, |placed| match placed {
            Placed::Packed(packed) => Some(packed.to_host()),
            Placed::Dense(_) => None,
        })
    }

    fn moved(self, device: &Device) -> Self {
        Self {
            ring: self.ring.on(&device.clone().without_autodiff()),
            device: device.clone(),
            entry: self.entry,
            compute: self.compute,
        }
    }
}

fn unpack(layout: Layout, words: &[u32], scales: &[u32], ids: &[usize], found: &mut [f32]) {
    linear::rows(layout.format, layout.shape, words, scales, ids, found)
        .expect("ids were compared with the rows");
}

/// The fewest rows around `row` that stand alone as a packed weight, and the first of them.
fn part_around(
    Layout { format, shape }: Layout,
    words: &Shelved,
    scales: &Shelved,
    row: usize,
) -> io::Result<(Packed, usize)> {
    let [rows, cols] = shape;
    let unit = format.part_rows(shape).max(1);
    let first = row / unit * unit;
    let part = first..rows.min(first + unit);
    let shape_of = |rows: usize| [rows, cols];
    // A part begins where a word does.
    let before = format.words_len(shape_of(part.start));
    let len = format.words_len(shape_of(part.len()));
    let ranges: Vec<Range<usize>> = format.part_scales(shape, &part);
    let scales = ranges.into_iter().map(|range| scales.words(range));
    let scales = scales.collect::<io::Result<Vec<_>>>()?.concat();
    let packed = Packed {
        format,
        shape: shape_of(part.len()),
        words: words.words(before..before + len)?,
        scales,
    };
    Ok((packed, first))
}

impl Module for StreamedWeight {
    fn collect_devices(&self, mut devices: Devices) -> Devices {
        if !devices.contains(&self.device) {
            devices.push(self.device.clone());
        }
        devices
    }

    fn fork(self, device: &Device) -> Self {
        self.moved(device)
    }

    fn to_device(self, device: &Device) -> Self {
        self.moved(device)
    }

    fn train(self) -> Self {
        if !self.device.is_autodiff() {
            let device = self.device.clone().autodiff();
            return Self { device, ..self };
        }
        self
    }

    fn valid(&self) -> Self {
        Self {
            device: self.device.clone().without_autodiff(),
            ..self.clone()
        }
    }

    fn materialize(self) -> Self {
        self
    }

    fn num_params(&self) -> usize {
        self.shape().iter().product()
    }

    fn visit<V: ModuleVisitor>(&self, _visitor: &mut V) {}

    fn map<M: ModuleMapper>(self, _mapper: &mut M) -> Self {
        self
    }
}

impl ModuleDisplayDefault for StreamedWeight {
    fn content(&self, content: Content) -> Option<Content> {
        let [out, r#in] = self.shape();
        let what = self
            .format()
            .map_or_else(|| "dense".to_owned(), |format| format.to_string());
        content
            .add_formatted(&format!("{what} [{out}, {in}], streamed"))
            .optional()
    }

    fn num_params(&self) -> usize {
        Module::num_params(self)
    }
}

impl ModuleDisplay for StreamedWeight {}
