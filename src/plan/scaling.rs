//! Factors for the rows and columns of a weight, applied while it is converted.

use std::sync::Arc;

use firebox_kernels::arith::float::DType;
use rayon::prelude::*;

/// What a weight `[rows, columns]` is multiplied by before it is packed or kept. A vector is a column.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Scaling {
    /// A factor for each row.
    pub rows: Option<Arc<[f32]>>,
    /// A factor for each column.
    pub cols: Option<Arc<[f32]>>,
}

/// Values that one worker multiplies, converts or compares at a time.
pub(crate) const CHUNK: usize = 64 << 10;

impl Scaling {
    /// Whether nothing is multiplied.
    pub fn is_none(&self) -> bool {
        self.rows.is_none() && self.cols.is_none()
    }

    /// Multiplies the rows from `first_row` on, by columns and then by rows: a rounding in `f32` each.
    pub(crate) fn apply(&self, first_row: usize, cols: usize, values: &mut [f32]) {
        let rows = values.chunks_mut(cols.max(1)).enumerate();
        rows.for_each(|(row, values)| {
            if let Some(factors) = &self.cols {
                for (value, factor) in values.iter_mut().zip(&**factors) {
                    *value *= factor;
                }
            }
            if let Some(factors) = &self.rows {
                let factor = factors[first_row + row];
                for value in values {
                    *value *= factor;
                }
            }
        });
    }

    /// [`apply`](Self::apply) to what is stored as `float`, rounded back to it. Spread over the current rayon pool.
    pub(crate) fn apply_stored(
        &self,
        float: DType,
        first_row: usize,
        cols: usize,
        bytes: &mut [u8],
    ) {
        let together = (CHUNK / cols.max(1)).max(1);
        let chunks = bytes.par_chunks_mut((together * cols * float.size()).max(1));
        chunks.enumerate().for_each(|(nth, bytes)| {
            let mut values = vec![0.0; bytes.len() / float.size()];
            float.widen(bytes, &mut values);
            self.apply(first_row + nth * together, cols, &mut values);
            float.narrow(&values, bytes);
        });
    }

    /// [`apply`](Self::apply) to what is stored as `float`, widened and left so.
    pub(crate) fn widen(
        &self,
        float: DType,
        first_row: usize,
        cols: usize,
        bytes: &[u8],
    ) -> Vec<f32> {
        let together = (CHUNK / cols.max(1)).max(1);
        let mut values = vec![0.0; bytes.len() / float.size()];
        let chunks = values.par_chunks_mut((together * cols).max(1));
        let bytes = bytes.par_chunks((together * cols * float.size()).max(1));
        chunks
            .zip(bytes)
            .enumerate()
            .for_each(|(nth, (values, bytes))| {
                float.widen(bytes, values);
                self.apply(first_row + nth * together, cols, values);
            });
        values
    }
}
