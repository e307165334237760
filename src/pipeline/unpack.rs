//! Rows of a weight that the checkpoint has packed, as values of `f32`: what a method packs again, and what a dequantized
//! weight is made of. The values are those of the whole weight dequantized, to the bit; neither it nor its codes are ever
//! whole in memory.

use core::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use firebox_kernels::{arith::float::DType, format::Packed};
use rayon::{ThreadPool, prelude::*};

use crate::{
    dialect::{Adopt, DialectError, Excerpt},
    plan::CHUNK,
    source::SourceError,
};

/// A packed weight whose rows are unpacked as they are read.
#[derive(Debug, Clone)]
pub(crate) struct Unpacked {
    /// One, or the matrices of a stack.
    matrices: Vec<Adopt>,
    /// `[rows, columns]` of the values of each.
    shape: [usize; 2],
    /// What was read last.
    band: Arc<Mutex<Option<Band>>>,
}

/// Rows of a matrix that were read at once, for more tiles than one where a row lies all over its tensors.
#[derive(Debug)]
struct Band {
    /// The number of the matrix.
    matrix: usize,
    excerpt: Excerpt,
    packed: Packed,
}

/// Rows that could not be read.
#[derive(Debug)]
pub(crate) enum RowError {
    /// A read failed.
    Source(SourceError),
    /// A packed weight contradicts its configuration.
    Dialect(DialectError),
}

impl From<SourceError> for RowError {
    fn from(error: SourceError) -> Self {
        Self::Source(error)
    }
}

impl From<DialectError> for RowError {
    fn from(error: DialectError) -> Self {
        Self::Dialect(error)
    }
}

impl Unpacked {
    /// The type of the values.
    const DTYPE: DType = DType::F32;

    pub(super) fn new(adopt: &Adopt, [rows, cols]: [usize; 2]) -> Self {
        let matrices = adopt.matrices();
        Self {
            shape: [rows / matrices.len().max(1), cols],
            matrices,
            band: Arc::default(),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.matrices.len() * self.shape[0] * self.row_bytes()
    }

    /// The ranges of files that hold them.
    pub(super) fn reads(&self) -> Vec<(&str, Range<u64>)> {
        self.matrices.iter().flat_map(Adopt::reads).collect()
    }

    pub(super) fn rows_together(&self) -> usize {
        let first = self.matrices.first();
        first.map_or(1, |adopt| adopt.rows_together(self.shape))
    }

    fn row_bytes(&self) -> usize {
        self.shape[1] * Self::DTYPE.size()
    }

    /// Fills `into` with whole rows, as [`SourceValues::fill`](super::values::SourceValues::fill) does.
    pub(super) fn fill(
        &self,
        start: usize,
        into: &mut [u8],
        workers: &ThreadPool,
        mut read: impl FnMut(&str, u64, &mut [u8]) -> Result<(), SourceError>,
    ) -> Result<u64, RowError> {
        let (row_bytes, [rows, _]) = (self.row_bytes(), self.shape);
        let (mut at, mut rest, mut bytes) = (start, into, 0);
        while !rest.is_empty() {
            let first = at / row_bytes;
            let (matrix, first) = (first / rows, first % rows);
            let len = rest.len().min((rows - first) * row_bytes);
            let (here, after) = rest.split_at_mut(len);
            bytes += self.rows(matrix, first, here, workers, &mut read)?;
            (at, rest) = (at + len, after);
        }
        Ok(bytes)
    }

    /// Fills `into` with rows of the matrix `nth`, from `first` on.
    fn rows(
        &self,
        nth: usize,
        first: usize,
        into: &mut [u8],
        workers: &ThreadPool,
        read: &mut impl FnMut(&str, u64, &mut [u8]) -> Result<(), SourceError>,
    ) -> Result<u64, RowError> {
        let (matrix, [all, _]) = (&self.matrices[nth], self.shape);
        let (tiles, count) = (matrix.tiles_at_once(), into.len() / self.row_bytes());
        let end = first + count;
        let mut band = self.band.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = 0;
        let there = band.take().filter(|band| {
            let rows = &band.excerpt.rows;
            band.matrix == nth && rows.start <= first && end <= rows.end && tiles > 1
        });
        let found = match there {
            Some(found) => found,
            None => {
                let rows = first..all.min(first + tiles * count);
                let excerpt = matrix.excerpt(self.shape, rows);
                bytes = excerpt.lens().sum::<usize>() as u64;
                let parts = parts(matrix, &excerpt, read)?;
                let assemble = || matrix.assemble_excerpt(self.shape, &excerpt, parts);
                let packed = workers.install(assemble)?;
                Band {
                    matrix: nth,
                    excerpt,
                    packed,
                }
            }
        };
        workers.install(|| match matrix.turns {
            true => turn(&found.packed, first - found.excerpt.cols.start, into),
            false => dequantize(&found.packed, first - found.excerpt.rows.start, into),
        });
        if tiles > 1 && end < found.excerpt.rows.end {
            *band = Some(found);
        }
        Ok(bytes)
    }
}

/// Reads what an excerpt takes of each part, in words that are filled up with zeros.
fn parts(
    matrix: &Adopt,
    excerpt: &Excerpt,
    read: &mut impl FnMut(&str, u64, &mut [u8]) -> Result<(), SourceError>,
) -> Result<Vec<Vec<u32>>, SourceError> {
    let ranges = excerpt.parts.iter().zip(excerpt.lens());
    let parts = matrix.parts.iter().zip(ranges);
    let parts = parts.map(|(part, (runs, len))| {
        let mut words = vec![0_u32; len.div_ceil(size_of::<u32>())];
        let mut rest: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
        for range in runs.iter().flat_map(|runs| runs.ranges()) {
            let (here, after) = rest.split_at_mut(range.len());
            read(&part.file, part.range.start + range.start as u64, here)?;
            rest = after;
        }
        Ok(words)
    });
    parts.collect()
}

/// The values of rows from `first` on, as bytes. Spread over the current rayon pool.
fn dequantize(packed: &Packed, first: usize, into: &mut [u8]) {
    let Packed {
        format,
        shape,
        words,
        scales,
    } = packed;
    let cols = shape[1];
    let together = (CHUNK / cols).max(1);
    let chunks = into.par_chunks_mut(together * cols * size_of::<f32>());
    chunks.enumerate().for_each(|(nth, bytes)| {
        let mut values = vec![0.0_f32; bytes.len() / size_of::<f32>()];
        let first = first + nth * together;
        let rows = first..first + values.len() / cols;
        format.dequantize_rows(*shape, words, scales, rows, &mut values);
        for (bytes, value) in bytes.as_chunks_mut().0.iter_mut().zip(values) {
            *bytes = value.to_le_bytes();
        }
    });
}

/// The values of columns from `first` on, each as a row.
fn turn(packed: &Packed, first: usize, into: &mut [u8]) {
    let [rows, cols] = packed.shape;
    let values = packed.dequantize();
    let turned = into.par_chunks_mut(rows * size_of::<f32>()).enumerate();
    turned.for_each(|(nth, bytes)| {
        let column = values.iter().skip(first + nth).step_by(cols);
        for (bytes, value) in bytes.as_chunks_mut().0.iter_mut().zip(column) {
            *bytes = value.to_le_bytes();
        }
    });
}
