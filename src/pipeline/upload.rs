//! Converting on a device: tiles are uploaded, packed there, and their source bytes freed.

use burn::tensor::{Bytes, DType as BurnDType, Device, Int, Tensor, TensorData};
use firebox_kernels::{
    checksum::checksum,
    error::FormatError,
    format::{Format, Tile as ScaleTile},
    packing::Packing,
};

use super::{PipelineError, Settings, convert::Dense, read::Tile};
use crate::{
    plan::Step,
    quant::{
        Layout, PackedWeight,
        ops::{self, Rows},
    },
    target::ToBurn,
};

/// Packs one weight on a device, fed tile by tile.
pub(super) struct DevicePacker {
    device: Device,
    packing: Packing,
    layout: Layout,
    /// Rows of each part but the last.
    part_rows: usize,
    /// Bits of the largest magnitude of the tiles so far, where one scale serves all of them.
    absmax: Option<u32>,
    tiles: Vec<Packed>,
}

/// One tile, packed; its scales are not nested yet.
struct Packed {
    rows: usize,
    words: Tensor<1, Int>,
    scales: Tensor<1, Int>,
}

impl DevicePacker {
    pub(super) fn new(
        step: &Step,
        packing: Packing,
        device: &Device,
        allocation_max: Option<u64>,
    ) -> Result<Self, FormatError> {
        let shape = step.matrix();
        let format = packing.format(shape, step.float())?;
        // The plan has refused what cannot be cut.
        let parts = allocation_max.and_then(|largest| format.cut(shape, largest));
        Ok(Self {
            device: device.clone(),
            packing,
            layout: Layout { format, shape },
            part_rows: parts.map_or(shape[0], |parts| parts[0].len()),
            absmax: None,
            tiles: Vec::new(),
        })
    }

    pub(super) fn passes(&self) -> usize {
        self.packing.passes()
    }

    /// Rows that a tile is a multiple of, and the most that it may have: no tile is in two parts.
    pub(super) fn tile_rows(&self) -> [usize; 2] {
        let Layout { format, shape } = self.layout;
        let together = if self.part_rows < shape[0] {
            format.part_rows(shape)
        } else {
            self.packing.tile_rows(shape)
        };
        [together, self.part_rows]
    }

    /// Uploads a tile and packs it. Returns when the device is done with it: its memory is free again, and
    /// what went wrong there is known by the tensor's name.
    pub(super) fn feed(&mut self, step: &Step, tile: Tile<'_>) -> Result<(), PipelineError> {
        let rows = Rows {
            packing: self.packing,
            shape: [tile.rows, self.layout.shape[1]],
            source: step.float(),
        };
        let scales_whole = tile.pass + 1 < self.passes();
        let (bytes, _until_arrived) = tile.into_staged();
        let sent = checksum(&bytes);
        let bits = words(bytes, &self.device);
        if scales_whole {
            let here = read(ops::absmax(bits.clone(), rows)).map_err(|reason| {
                let tensor = step.slot.name.clone();
                PipelineError::Device { tensor, reason }
            })?;
            // Magnitudes order as their bits do, NaN last.
            self.absmax = self.absmax.max(here.into_iter().max());
        } else {
            let one_word = |bits: u32| words(Bytes::from_elems(vec![bits]), &self.device);
            let absmax = self.absmax.map(one_word);
            let [words, scales] = ops::quantize(bits.clone(), absmax, rows);
            let rows = rows.shape[0];
            self.tiles.push(Packed {
                rows,
                words,
                scales,
            });
        }
        arrived(step, sent, bits)
    }

    /// The packed weight, in parts. There was a tile at least: a weight without numbers is not packed here.
    pub(super) fn finish(self) -> Vec<PackedWeight> {
        let Layout { format, shape } = self.layout;
        let scales = self.tiles.iter().map(|tile| tile.scales.clone()).collect();
        let scales = match format {
            Format::Nf4(blocks) | Format::Fp4(blocks) if blocks.nested => ops::nest(cat(scales)),
            // Every tile has the scale of the whole.
            Format::Fp8(_, ScaleTile::Tensor) => cat(scales).narrow(0, 0, 1),
            _ => cat(scales),
        };

        let mut tiles = self.tiles.into_iter().peekable();
        let mut parts = Vec::new();
        let mut first = 0;
        loop {
            let (mut rows, mut words) = (0, Vec::new());
            while let Some(tile) = tiles.next_if(|tile| rows + tile.rows <= self.part_rows) {
                rows += tile.rows;
                words.push(tile.words);
            }
            let part = first..first + rows;
            let of_part = if part.len() == shape[0] {
                scales.clone()
            } else {
                let ranges = format.part_scales(shape, &part).into_iter();
                let ranges = ranges.map(|range| scales.clone().narrow(0, range.start, range.len()));
                cat(ranges.collect())
            };
            let shape = [rows, shape[1]];
            let words = cat(words);
            parts.push(PackedWeight::new(words, of_part, Layout { format, shape }));
            first = part.end;
            if tiles.peek().is_none() {
                return parts;
            }
        }
    }
}

/// The tensors of a dense weight, flattened: one, or parts of whole rows where the device's allocations are
/// smaller. On a host target the numbers are moved, not copied.
pub(crate) fn upload(
    step: &Step,
    dense: Dense,
    device: &Device,
    settings: &Settings<'_>,
) -> Result<Vec<Tensor<1>>, PipelineError> {
    let (dtype, data) = dense.into_data();
    let place = |data| Tensor::from_data(data, (device, BurnDType::from(dtype.burn())));
    if settings.device.is_none() {
        return Ok(vec![place(data)]);
    }
    let row = step.matrix()[1] * dtype.size();
    let largest = settings.allocation_max.unwrap_or(u64::MAX);
    // The plan has refused rows that are larger.
    let part = (usize::try_from(largest).unwrap_or(usize::MAX) / row.max(1)).max(1) * row;
    let bytes = data.into_bytes();
    let parts = if bytes.len() <= part {
        vec![bytes]
    } else {
        let parts = bytes.chunks(part);
        parts
            .map(|part| Bytes::from_bytes_vec(part.to_vec()))
            .collect()
    };
    let upload = |bytes: Bytes| {
        let (sent, words) = (checksum(&bytes), bytes.len() / size_of::<u32>());
        let len = bytes.len() / dtype.size();
        let tensor = place(TensorData::from_bytes(bytes, [len], dtype.burn().into()));
        if words > 0 {
            // What follows a last odd half is nobody's.
            arrived(step, sent, ops::bits(tensor.clone()).narrow(0, 0, words))?;
        }
        Ok(tensor)
    };
    parts.into_iter().map(upload).collect()
}

fn words(bytes: Bytes, device: &Device) -> Tensor<1, Int> {
    let len = bytes.len() / size_of::<u32>();
    let data = TensorData::from_bytes(bytes, [len], BurnDType::U32);
    Tensor::from_data(data, (device, BurnDType::U32))
}

/// Burn copies what is alone.
fn cat(mut tensors: Vec<Tensor<1, Int>>) -> Tensor<1, Int> {
    match tensors.len() {
        1 => tensors.remove(0),
        _ => Tensor::cat(tensors, 0),
    }
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
    let sums = read(ops::checksums(words)).map_err(failed)?;
    let found = sums.into_iter().fold(0, u32::wrapping_add);
    if found == sent {
        Ok(())
    } else {
        Err(PipelineError::Lost {
            tensor: tensor(),
            sent,
            found,
        })
    }
}

fn read(words: Tensor<1, Int>) -> Result<Vec<u32>, String> {
    let data = words.try_into_data().map_err(|error| error.to_string())?;
    data.try_into_vec().map_err(|error| format!("{error:?}"))
}
