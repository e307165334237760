//! Dense values that stay dense.

use firebox_kernels::arith::float::DType;
use rayon::ThreadPool;

use super::{
    super::{
        dense::{Dense, Values},
        error::PipelineError,
        finished::{Finished, RowBatch},
        tile::SourceTile,
    },
    Completed, Convert,
};
use crate::plan::Step;

/// Collects the whole weight.
pub(crate) struct DenseWhole {
    source: DType,
    cols: usize,
    values: Values,
}

impl DenseWhole {
    pub(crate) fn new(step: &Step, source: DType, dtype: DType) -> Result<Self, PipelineError> {
        let [rows, cols] = step.matrix();
        Ok(Self {
            source,
            cols,
            values: Values::zeros(step, dtype, rows * cols)?,
        })
    }
}

impl Convert for DenseWhole {
    fn feed(
        &mut self,
        step: &Step,
        tile: SourceTile<'_>,
        workers: &ThreadPool,
    ) -> Result<Option<RowBatch>, PipelineError> {
        let first = tile.first_row * self.cols;
        let to = &mut self.values;
        workers.install(|| convert(step, self.source, &tile, to, first));
        Ok(None)
    }

    fn finish(self: Box<Self>, _step: &Step) -> Result<Completed, PipelineError> {
        let dense = Dense::Owned(self.values);
        Ok(Completed::Weight(Finished::Dense(dense)))
    }
}

/// Hands on the rows of each tile.
pub(crate) struct DenseRows {
    source: DType,
    dtype: DType,
    cols: usize,
}

impl DenseRows {
    pub(crate) fn new(source: DType, dtype: DType, cols: usize) -> Self {
        Self {
            source,
            dtype,
            cols,
        }
    }
}

impl Convert for DenseRows {
    fn feed(
        &mut self,
        step: &Step,
        tile: SourceTile<'_>,
        workers: &ThreadPool,
    ) -> Result<Option<RowBatch>, PipelineError> {
        let mut values = Values::zeros(step, self.dtype, tile.rows * self.cols)?;
        workers.install(|| convert(step, self.source, &tile, &mut values, 0));
        Ok(Some(RowBatch::Dense(values)))
    }

    fn finish(self: Box<Self>, _step: &Step) -> Result<Completed, PipelineError> {
        Ok(Completed::Rows(Vec::new()))
    }
}

/// Converts a tile to the values that begin with the one at `first`. Values that are multiplied on the way are rounded
/// once, from `f32`.
fn convert(step: &Step, source: DType, tile: &SourceTile<'_>, to: &mut Values, first: usize) {
    if step.scaling.is_none() {
        return to.convert(source, first, tile.bytes());
    }
    let [_, cols] = step.matrix();
    let scaled = step
        .scaling
        .widen(source, tile.first_row, cols, tile.bytes());
    to.convert(DType::F32, first, bytemuck::cast_slice(&scaled));
}
