//! Comparing a finished weight with the values that it was made from.

use core::ops::Range;

use firebox_kernels::{
    arith::float::DType,
    compare::{self, Sums},
};
use rayon::prelude::*;

use super::{
    ahead::StepReads,
    dense::Dense,
    error::PipelineError,
    fetch::{FetchedSource, fetching},
    finished::Finished,
    rows::{Original, RowReader, read_error},
    settings::Settings,
};
use crate::{
    plan::{CHUNK, Step},
    quant::PackedWeight,
    source::Source,
};

/// Compares finished weights with their originals, which it reads again. Made for a sink of a run.
pub(crate) struct Comparer<'a> {
    reader: RowReader<'a>,
    /// The largest allocation of the devices that pack, where there are some.
    largest: Option<u64>,
}

/// Does `work` with a comparer that reads `originals` of `source`, in their order. Where reads are requests, they are fetched ahead.
pub(crate) fn comparing<'p, R, E: From<PipelineError>>(
    source: &dyn Source,
    originals: impl Iterator<Item = StepReads<'p>>,
    settings: &Settings<'_>,
    work: impl FnOnce(Comparer<'_>) -> Result<R, E>,
) -> Result<R, E> {
    // As many as the run that makes the weights will have for what it fetches.
    let bytes = settings.in_flight.free() / 8 * 3;
    fetching(source, originals, (&settings.in_flight, bytes), |reading| {
        work(Comparer::new(reading, settings)?)
    })
}

impl<'a> Comparer<'a> {
    fn new(reading: FetchedSource<'a>, settings: &'a Settings<'_>) -> Result<Self, PipelineError> {
        let largest = settings.allocation_max.unwrap_or(u64::MAX);
        Ok(Self {
            reader: RowReader::beside(reading, settings)?,
            largest: (!settings.devices.is_empty()).then_some(largest),
        })
    }

    /// Lets go of what is fetched ahead for the originals up to the one of `step`.
    pub(crate) fn finished(&self, step: usize) {
        self.reader.finished(step);
    }

    /// The sums of one weight, over all of its values.
    pub(crate) fn sums(
        &self,
        step: &Step,
        original: &Original,
        weight: &Finished,
    ) -> Result<Sums, PipelineError> {
        let [rows, cols] = original.shape;
        match weight {
            Finished::Packed(packed) => {
                self.tiles(step, original, 0..rows, |first, dtype, bytes| {
                    compare::host_rows(dtype, bytes, packed, first)
                })
            }
            Finished::Dense(dense) => self.tiles(step, original, 0..rows, |first, dtype, bytes| {
                compare_dense(dtype, bytes, dense, first * cols)
            }),
            Finished::Placed(parts) => self.placed(step, original, parts),
            // It is what it was, and has no values to compare.
            Finished::Carried(_) | Finished::Share(_) => Ok(Sums::default()),
        }
    }

    /// Reads rows of an original, and adds up the sums that `of` makes of each tile: of its first row, the type of its
    /// values, and their bytes.
    fn tiles(
        &self,
        step: &Step,
        original: &Original,
        rows: Range<usize>,
        of: impl Fn(usize, DType, &[u8]) -> Sums + Sync,
    ) -> Result<Sums, PipelineError> {
        let (dtype, [_, cols], scaling) = (original.dtype, original.shape, &original.scaling);
        let mut sums = Sums::default();
        for tile in self.reader.tiles(original, rows, 1) {
            let tile = tile.map_err(|source| read_error(step, source))?;
            let (first, bytes) = (tile.first, tile.bytes());
            let of_tile = self.reader.workers().install(|| {
                if scaling.is_none() {
                    return of(first, dtype, bytes);
                }
                let values = scaling.widen(dtype, first, cols, bytes);
                of(first, DType::F32, bytemuck::cast_slice(&values))
            });
            sums = sums.join(of_tile);
        }
        Ok(sums)
    }

    /// Compares the parts of a weight on their device, if the original of a part fits there in one allocation.
    fn placed(
        &self,
        step: &Step,
        original: &Original,
        parts: &[PackedWeight],
    ) -> Result<Sums, PipelineError> {
        let (mut sums, mut first) = (Sums::default(), 0);
        for part in parts {
            let rows = first..first + part.layout().shape[0];
            let bytes = rows.len() * original.shape[1] * original.dtype.size();
            let of_part = match self.largest {
                Some(largest)
                    if bytes.next_multiple_of(size_of::<u32>()) as u64 <= largest
                        && original.scaling.is_none() =>
                {
                    let device = part.device();
                    let bits = self.reader.on_device(original, rows.clone(), &device);
                    let bits = bits.map_err(|source| read_error(step, source))?;
                    let sums = part.sums(bits, original.dtype);
                    sums.map_err(|reason| PipelineError::Device {
                        tensor: step.slot.name.clone(),
                        reason,
                    })?
                }
                _ => {
                    let packed = part.to_host();
                    self.tiles(step, original, rows.clone(), |row, dtype, bytes| {
                        compare::host_rows(dtype, bytes, &packed, row - rows.start)
                    })?
                }
            };
            sums = sums.join(of_part);
            first = rows.end;
        }
        Ok(sums)
    }
}

/// Compares dense values, from the one at `first` on.
fn compare_dense(dtype: DType, bytes: &[u8], dense: &Dense, first: usize) -> Sums {
    let chunks = bytes.par_chunks(CHUNK * dtype.size()).enumerate();
    let sums: Vec<Sums> = chunks
        .map(|(k, bytes)| {
            let mut sources = vec![0.0; bytes.len() / dtype.size()];
            dtype.widen(bytes, &mut sources);
            let mut results = vec![0.0; sources.len()];
            dense.widen(first + k * CHUNK, &mut results);
            compare::plain(&sources, &results)
        })
        .collect();
    sums.into_iter().fold(Sums::default(), Sums::join)
}
