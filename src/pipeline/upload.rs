//! Converting on a device: tiles are uploaded, packed there, and their source bytes freed.

use burn::tensor::{Bytes, DType, Device, Int, Tensor, TensorData};
use firebox_kernels::{format::Format, packing::Packing};

use super::PipelineError;
use crate::{
    plan::Step,
    quant::{
        Layout, PackedWeight,
        ops::{self, Rows},
    },
};

/// Packs one weight on a device, fed tile by tile.
pub(super) struct DevicePacker {
    device: Device,
    packing: Packing,
    /// Bits of the largest magnitude of the tiles so far, where one scale serves all of them.
    absmax: Option<Tensor<1, Int>>,
    /// Words and scales of every tile.
    tiles: Vec<Tile>,
}

struct Tile {
    rows: usize,
    words: Tensor<1, Int>,
    scales: Tensor<1, Int>,
}

impl DevicePacker {
    pub(super) fn new(packing: Packing, device: Device) -> Self {
        Self {
            device,
            packing,
            absmax: None,
            tiles: Vec::new(),
        }
    }

    pub(super) fn packing(&self) -> Packing {
        self.packing
    }

    /// Uploads `rows` rows and packs them. Returns when the device is done with them: their memory is
    /// free again, and what went wrong there is known by its tensor's name.
    pub(super) fn feed(
        &mut self,
        step: &Step,
        pass: usize,
        rows: usize,
        bytes: Bytes,
    ) -> Result<(), PipelineError> {
        let sent = checksum(&bytes);
        let bits = words(bytes, &self.device);
        let rows = Rows {
            packing: self.packing,
            shape: [rows, step.matrix()[1]],
            source: step.source,
        };
        if pass + 1 < self.packing.passes() {
            let here = ops::absmax(bits.clone(), rows);
            self.absmax = Some(match self.absmax.take() {
                None => here,
                Some(before) => Tensor::cat(vec![before, here], 0).max(),
            });
        } else {
            // Formats without one scale for all ignore it.
            let absmax = self.absmax.clone().unwrap_or_else(|| zero(&self.device));
            let [words, scales] = ops::quantize(bits.clone(), absmax, rows);
            let rows = rows.shape[0];
            self.tiles.push(Tile { rows, words, scales });
        }
        arrived(step, sent, bits)
    }

    /// The packed weight, in parts of at most `largest` bytes each where the device sets a limit.
    pub(super) fn finish(self, step: &Step, largest: Option<u64>) -> Vec<PackedWeight> {
        let shape = step.matrix();
        let format = self.packing.format(shape);
        let format = format.expect("the packing took this shape when it was planned");
        let (rows, words, scales) = self.tiles.into_iter().fold(
            (Vec::new(), Vec::new(), Vec::new()),
            |(mut rows, mut words, mut scales), tile| {
                rows.push(tile.rows);
                words.push(tile.words);
                scales.push(tile.scales);
                (rows, words, scales)
            },
        );
        let _ = (rows, largest);
        let words = cat(words, &self.device);
        let scales = match (format, scales.first()) {
            (Format::Nf4(blocks) | Format::Fp4(blocks), _) if blocks.nested => {
                ops::nest(cat(scales, &self.device))
            }
            // Every tile has the one scale of the weight.
            (_, Some(scale)) if format.scales_len(shape) == 1 => scale.clone(),
            _ => cat(scales, &self.device),
        };
        vec![PackedWeight::new(words, scales, Layout { format, shape })]
    }
}

fn words(bytes: Bytes, device: &Device) -> Tensor<1, Int> {
    let len = bytes.len() / size_of::<u32>();
    let data = TensorData::from_bytes(bytes, [len], DType::U32);
    Tensor::from_data(data, (device, DType::U32))
}

fn zero(device: &Device) -> Tensor<1, Int> {
    Tensor::from_data(TensorData::new(vec![0_u32], [1]), (device, DType::U32))
}

/// Burn does not concatenate nothing, and copies what is alone.
fn cat(mut tensors: Vec<Tensor<1, Int>>, device: &Device) -> Tensor<1, Int> {
    match tensors.len() {
        0 => Tensor::from_data(TensorData::new(Vec::<u32>::new(), [0]), (device, DType::U32)),
        1 => tensors.remove(0),
        _ => Tensor::cat(tensors, 0),
    }
}

/// Sums of the words, as `u32` that wraps: lost and torn writes show, whatever the order of a sum.
fn checksum(bytes: &[u8]) -> u32 {
    let (words, tail) = bytes.as_chunks::<4>();
    let sum = words
        .iter()
        .fold(0_u32, |sum, word| sum.wrapping_add(u32::from_le_bytes(*word)));
    tail.iter()
        .rev()
        .fold(0, |word, byte| word << 8 | u32::from(*byte))
        .wrapping_add(sum)
}

/// Waits until the device has the words, and compares what it has with what was sent.
///
/// Some graphics drivers lose early writes (tracel-ai/cubecl#1120), which nothing else would show.
fn arrived(step: &Step, sent: u32, words: Tensor<1, Int>) -> Result<(), PipelineError> {
    let tensor = || step.slot.name.clone();
    let failed = |error: String| PipelineError::Device {
        tensor: tensor(),
        reason: error,
    };
    let found = words
        .sum()
        .try_into_data()
        .map_err(|error| failed(error.to_string()))?
        .try_into_vec::<u32>()
        .map_err(|error| failed(format!("{error:?}")))?;
    match found[..] {
        [found] if found == sent => Ok(()),
        _ => Err(PipelineError::Lost {
            tensor: tensor(),
            sent,
            found: found.first().copied().unwrap_or_default(),
        }),
    }
}
