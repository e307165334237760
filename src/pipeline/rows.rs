//! Reading dense values again, some rows at a time, within the byte budget: to balance, measure or compare weights.

use core::ops::Range;

use burn::tensor::{DType as BurnDType, Device, Int, Tensor, TensorData};
use firebox_kernels::arith::float::DType;
use rayon::ThreadPool;

use super::{
    ahead::StepReads,
    error::PipelineError,
    fetch::FetchedSource,
    in_flight::{Account, Loan},
    settings::{Settings, TILE_BYTES},
    unpack::RowError,
    values::SourceValues,
};
use crate::plan::{Scaling, Step};

/// Dense values of a checkpoint, as a matrix.
pub(crate) struct Original {
    pub(crate) values: SourceValues,
    pub(crate) dtype: DType,
    /// `[rows, columns]`, as [`Step::matrix`] has them.
    pub(crate) shape: [usize; 2],
    /// Factors that the values are multiplied by before they are packed.
    pub(crate) scaling: Scaling,
}

impl Original {
    /// The values that a step packs.
    pub(crate) fn of(step: &Step) -> Self {
        Self {
            values: SourceValues::of(step),
            dtype: step.float(),
            shape: step.matrix(),
            scaling: step.scaling.clone(),
        }
    }

    /// What reading all of it once takes.
    pub(crate) fn reads(&self) -> StepReads<'_> {
        StepReads {
            ranges: self.values.reads(),
            passes: 1,
        }
    }

    fn row_bytes(&self) -> usize {
        self.shape[1] * self.dtype.size()
    }
}

/// Some rows of an [`Original`], as they are stored.
pub(crate) struct RowTile<'a> {
    /// The first of the rows.
    pub(crate) first: usize,
    loan: Loan<'a>,
}

impl RowTile<'_> {
    pub(crate) fn bytes(&self) -> &[u8] {
        self.loan.bytes()
    }
}

/// Reads rows, a tile at a time.
pub(crate) struct RowReader<'a> {
    reading: FetchedSource<'a>,
    account: Account<'a>,
    tile_bytes: usize,
    workers: ThreadPool,
}

impl<'a> RowReader<'a> {
    /// A reader that waits for its share of the bytes in flight.
    pub(crate) fn new(
        reading: FetchedSource<'a>,
        settings: &'a Settings<'_>,
    ) -> Result<Self, PipelineError> {
        let tile_bytes = settings.tile_bytes.min(TILE_BYTES);
        Ok(Self {
            reading,
            account: Account::new(&settings.in_flight),
            tile_bytes: tile_bytes as usize,
            workers: settings.pool()?,
        })
    }

    /// A reader for a sink of a run: the bytes of one tile are set aside for it.
    pub(crate) fn beside(
        reading: FetchedSource<'a>,
        settings: &'a Settings<'_>,
    ) -> Result<Self, PipelineError> {
        let reader = Self::new(reading, settings)?;
        Ok(Self {
            account: Account::set_aside(&settings.in_flight, reader.tile_bytes as u64),
            ..reader
        })
    }

    /// Lets go of what is fetched ahead and read by no step after `step`.
    pub(crate) fn finished(&self, step: usize) {
        self.reading.finished(step);
    }

    /// The threads that unpack rows, for the caller's work on them too.
    pub(crate) fn workers(&self) -> &ThreadPool {
        &self.workers
    }

    /// Tiles of `rows`, each but the last a multiple of `together` rows. Rows without columns have no tiles.
    pub(crate) fn tiles<'r>(
        &'r self,
        original: &'r Original,
        rows: Range<usize>,
        together: usize,
    ) -> impl Iterator<Item = Result<RowTile<'a>, RowError>> + 'r {
        let row_bytes = original.row_bytes();
        let tile_rows = self.tile_bytes / row_bytes.max(1) / together * together;
        let tile_rows = tile_rows.max(together);
        let rows = if row_bytes == 0 { 0..0 } else { rows };
        let end = rows.end;
        rows.step_by(tile_rows).map(move |first| {
            let len = tile_rows.min(end - first) * row_bytes;
            let loan = self.account.borrow(len);
            let mut loan = loan.expect("the account of a reader is never closed");
            self.read(original, first, loan.bytes_mut())?;
            Ok(RowTile { first, loan })
        })
    }

    /// The bits of `rows` on `device`, as words; zeros fill the last one.
    pub(crate) fn on_device(
        &self,
        original: &Original,
        rows: Range<usize>,
        device: &Device,
    ) -> Result<Tensor<1, Int>, RowError> {
        let len = rows.len() * original.row_bytes();
        let _counted = self.account.permit(len);
        let mut words = vec![0_u32; len.div_ceil(size_of::<u32>())];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
        self.read(original, rows.start, &mut bytes[..len])?;
        let len = words.len();
        let data = TensorData::new(words, [len]);
        Ok(Tensor::from_data(data, (device, BurnDType::U32)))
    }

    fn read(&self, original: &Original, first: usize, into: &mut [u8]) -> Result<(), RowError> {
        let start = first * original.row_bytes();
        let source = self.reading.source();
        let read = |file: &str, offset, into: &mut [u8]| source.read_at(file, offset, into);
        let filled = original.values.fill(start, into, &self.workers, read);
        filled.map(drop)
    }
}

/// A read of the weight of `step` that failed.
pub(crate) fn read_error(step: &Step, error: impl Into<RowError>) -> PipelineError {
    match error.into() {
        RowError::Source(source) => PipelineError::Read {
            tensor: step.slot.name.clone(),
            source,
        },
        RowError::Dialect(error) => PipelineError::Dialect(error),
    }
}
