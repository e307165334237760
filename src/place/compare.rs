//! Finished weights are compared with their source, and dropped.

use std::time::Instant;

use burn::tensor::{DType as BurnDType, Device, Tensor, TensorData};
use firebox_kernels::{
    compare::{self, Sums},
    float::DType,
};
use rayon::{ThreadPool, prelude::*};

use crate::{
    observe::{Event, Observer, tell},
    pipeline::{Dense, Finished, PipelineError, Settings, Sink, SinkError},
    plan::Step,
    quant::PackedWeight,
    source::{Source, SourceError, TensorInfo},
};

/// What a weight is compared with.
pub(crate) struct Original {
    pub(crate) tensor: TensorInfo,
    pub(crate) float: DType,
}

impl Original {
    /// The numbers that a step packs.
    pub(crate) fn of(step: &Step) -> Self {
        let (tensor, float) = (step.parts[0].clone(), step.float());
        Self { tensor, float }
    }
}

/// Takes the weights of a plan, in its order.
pub(crate) struct CompareSink<'a> {
    /// One for each step of the plan.
    originals: Vec<Original>,
    comparer: Comparer<'a>,
    /// Of the weights so far.
    pub(crate) sums: Vec<Sums>,
}

/// Compares finished weights with what is read again.
pub(super) struct Comparer<'a> {
    source: &'a dyn Source,
    /// Where weights are packed, and the largest allocation there.
    device: Option<(&'a Device, u64)>,
    workers: ThreadPool,
    observer: &'a dyn Observer,
}

/// Bytes of the source that are read at once, or one row.
const TILE_BYTES: usize = 4 << 20;
/// Plain numbers that one worker compares at a time.
const CHUNK: usize = 64 << 10;

impl<'a> CompareSink<'a> {
    pub(crate) fn new(
        source: &'a dyn Source,
        originals: Vec<Original>,
        settings: &Settings<'a>,
    ) -> Result<Self, PipelineError> {
        Ok(Self {
            originals,
            comparer: Comparer::new(source, settings)?,
            sums: Vec::new(),
        })
    }
}

impl<'a> Comparer<'a> {
    pub(super) fn new(
        source: &'a dyn Source,
        settings: &Settings<'a>,
    ) -> Result<Self, PipelineError> {
        let largest = settings.allocation_max.unwrap_or(u64::MAX);
        Ok(Self {
            source,
            device: settings.device.map(|device| (device, largest)),
            workers: settings.pool()?,
            observer: settings.observer,
        })
    }

    /// Compares, and tells of it, when so many weights of so many are done.
    pub(super) fn compare(
        &self,
        step: &Step,
        original: &Original,
        weight: &Finished,
        [done, total]: [usize; 2],
    ) -> Result<Sums, PipelineError> {
        let started = Instant::now();
        let sums = self.sums(step, original, weight)?;
        let verified = Event::Verified {
            step,
            stats: &sums.stats(),
            seconds: started.elapsed(),
        };
        tell(self.observer, &verified, done, total)?;
        Ok(sums)
    }

    fn sums(
        &self,
        step: &Step,
        original: &Original,
        weight: &Finished,
    ) -> Result<Sums, PipelineError> {
        let shape @ [rows, cols] = step.matrix();
        let float = original.float;
        let sums = match weight {
            Finished::Packed(packed) => self.tiles(original, 0..rows, cols, |first, bytes| {
                compare::host_rows(float, bytes, packed, first)
            }),
            Finished::Dense(dense) => self.tiles(original, 0..rows, cols, |first, bytes| {
                plain(float, bytes, dense, first * cols)
            }),
            Finished::Placed(parts) => return self.placed(step, original, shape, parts),
        };
        sums.map_err(|source| read_error(step, source))
    }

    /// Reads the rows of a source, tile by tile, and adds up what `of` makes of the rows from the one it is told.
    fn tiles(
        &self,
        original: &Original,
        rows: core::ops::Range<usize>,
        cols: usize,
        of: impl Fn(usize, &[u8]) -> Sums + Sync,
    ) -> Result<Sums, SourceError> {
        let row_bytes = cols * original.float.size();
        let tile_rows = (TILE_BYTES / row_bytes.max(1)).max(1);
        let mut bytes = vec![0; tile_rows.min(rows.len()) * row_bytes];
        let mut sums = Sums::default();
        for first in rows.clone().step_by(tile_rows) {
            let rows = tile_rows.min(rows.end - first);
            let bytes = &mut bytes[..rows * row_bytes];
            self.read(original, first * row_bytes, bytes)?;
            sums = sums.join(self.workers.install(|| of(first, bytes)));
        }
        Ok(sums)
    }

    fn read(&self, original: &Original, at: usize, into: &mut [u8]) -> Result<(), SourceError> {
        let TensorInfo { file, range, .. } = &original.tensor;
        self.source.read_at(file, range.start + at as u64, into)
    }

    /// Compares the parts of a weight where they are, if the source of a part can be there too.
    fn placed(
        &self,
        step: &Step,
        original: &Original,
        [_, cols]: [usize; 2],
        parts: &[PackedWeight],
    ) -> Result<Sums, PipelineError> {
        let (float, row_bytes) = (original.float, cols * original.float.size());
        let (mut sums, mut first) = (Sums::default(), 0);
        for part in parts {
            let rows = part.layout().shape[0];
            let words = (rows * row_bytes).div_ceil(size_of::<u32>());
            let bytes = (words * size_of::<u32>()) as u64;
            let of_part = match self.device {
                Some((device, largest)) if bytes <= largest => {
                    let mut words = vec![0_u32; words];
                    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
                    self.read(original, first * row_bytes, &mut bytes[..rows * row_bytes])
                        .map_err(|source| read_error(step, source))?;
                    let len = words.len();
                    let data = TensorData::new(words, [len]);
                    let bits = Tensor::from_data(data, (device, BurnDType::U32));
                    part.sums(bits, float)
                        .map_err(|reason| PipelineError::Device {
                            tensor: step.slot.name.clone(),
                            reason,
                        })?
                }
                _ => {
                    let packed = part.to_host();
                    self.tiles(original, first..first + rows, cols, |row, bytes| {
                        compare::host_rows(float, bytes, &packed, row - first)
                    })
                    .map_err(|source| read_error(step, source))?
                }
            };
            sums = sums.join(of_part);
            first += rows;
        }
        Ok(sums)
    }
}

fn read_error(step: &Step, source: SourceError) -> PipelineError {
    PipelineError::Read {
        tensor: step.slot.name.clone(),
        source,
    }
}

/// Compares plain numbers from the one at `first` on.
fn plain(float: DType, bytes: &[u8], dense: &Dense, first: usize) -> Sums {
    let chunks = bytes.par_chunks(CHUNK * float.size()).enumerate();
    let sums: Vec<Sums> = chunks
        .map(|(k, bytes)| {
            let mut sources = vec![0.0; bytes.len() / float.size()];
            float.widen(bytes, &mut sources);
            let mut results = vec![0.0; sources.len()];
            dense.widen(first + k * CHUNK, &mut results);
            compare::plain(&sources, &results)
        })
        .collect();
    sums.into_iter().fold(Sums::default(), Sums::join)
}

impl Sink for CompareSink<'_> {
    fn place(&mut self, step: &Step, weight: Finished) -> Result<(), SinkError> {
        let (original, done) = (&self.originals[self.sums.len()], self.sums.len());
        let total = self.originals.len();
        let sums = self
            .comparer
            .compare(step, original, &weight, [done, total])?;
        self.sums.push(sums);
        Ok(())
    }
}
