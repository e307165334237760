//! Dense values that a device packs: tiles are uploaded, packed there, and their source bytes freed.

use burn::tensor::{Bytes, Device, Int, Tensor};
use firebox_kernels::{
    arith::checksum::checksum,
    format::{Format, FormatError, Tile},
    packing::Packing,
};
use rayon::ThreadPool;

use super::{
    super::{
        error::PipelineError,
        finished::{Finished, RowBatch},
        tile::SourceTile,
        upload::{arrived, read, words},
    },
    Completed, Convert, scale,
};
use crate::{
    plan::Step,
    quant::{
        Layout, PackedWeight,
        ops::{self, SourceRows},
    },
};

/// Packs one weight on a device, fed tile by tile.
pub(crate) struct DevicePacker {
    device: Device,
    packing: Packing,
    layout: Layout,
    /// Rows of each part but the last.
    part_rows: usize,
    /// Bits of the largest magnitude of the tiles so far, where one scale serves all of them.
    absmax: Option<u32>,
    tiles: Vec<PackedTile>,
}

/// One tile, packed; its scales are not nested yet.
struct PackedTile {
    rows: usize,
    words: Tensor<1, Int>,
    scales: Tensor<1, Int>,
}

impl DevicePacker {
    pub(crate) fn new(
        step: &Step,
        packing: Packing,
        device: &Device,
        allocation_max: Option<u64>,
    ) -> Result<Self, FormatError> {
        let shape = step.matrix();
        let format = packing.format(shape, step.float())?;
        // The plan has refused weights that cannot be cut.
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

    /// The packed weight, in parts. There was at least one tile: a weight without values is not packed here.
    fn parts(self) -> Vec<PackedWeight> {
        let Layout { format, shape } = self.layout;
        let scales = self.tiles.iter().map(|tile| tile.scales.clone()).collect();
        let scales = match format {
            Format::Nf4(blocks) | Format::Fp4(blocks) if blocks.nested => ops::nest(cat(scales)),
            // Every tile has the scale of the whole.
            Format::Fp8(_, Tile::Tensor) => cat(scales).narrow(0, 0, 1),
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

impl Convert for DevicePacker {
    fn passes(&self) -> usize {
        self.packing.passes(self.layout.shape)
    }

    /// No tile is in two parts.
    fn tile_rows(&self) -> [usize; 2] {
        let Layout { format, shape } = self.layout;
        let together = if self.part_rows < shape[0] {
            format.part_rows(shape)
        } else {
            self.packing.tile_rows(shape)
        };
        [together, self.part_rows]
    }

    fn uploads(&self) -> bool {
        true
    }

    /// Uploads a tile and packs it. Returns when the device has finished: the tile's memory is free then, and an error
    /// of the device names the tensor.
    fn feed(
        &mut self,
        step: &Step,
        mut tile: SourceTile<'_>,
        workers: &ThreadPool,
    ) -> Result<Option<RowBatch>, PipelineError> {
        scale(step, &mut tile, workers);
        let rows = SourceRows {
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
            self.tiles.push(PackedTile {
                rows,
                words,
                scales,
            });
        }
        arrived(step, sent, bits)?;
        Ok(None)
    }

    fn finish(self: Box<Self>, _step: &Step) -> Result<Completed, PipelineError> {
        Ok(Completed::Weight(Finished::Placed(self.parts())))
    }
}

/// Burn would copy a single tensor.
fn cat(mut tensors: Vec<Tensor<1, Int>>) -> Tensor<1, Int> {
    match tensors.len() {
        1 => tensors.remove(0),
        _ => Tensor::cat(tensors, 0),
    }
}
