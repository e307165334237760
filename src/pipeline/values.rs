//! The dense values of a weight: plain ones as they are stored, and those of what the checkpoint has packed, unpacked.

use core::ops::Range;
use std::sync::Arc;

use firebox_kernels::arith::float::DType;
use rayon::ThreadPool;

use super::{
    pieces::{Pieces, Stretch},
    unpack::{RowError, Unpacked},
    weave::Weave,
};
use crate::{
    adapter::change::MergedAdapters,
    config::Role,
    plan::{Every, Step, Stored},
    source::SourceError,
};

/// The dense values of a weight, in the order of its rows, as bytes.
#[derive(Debug, Clone)]
pub(crate) enum SourceValues {
    /// As they are stored.
    Plain(Pieces),
    /// Values of `f32` that a packed weight has.
    Packed(Unpacked),
    /// Some rows of others.
    Some(Box<EveryRow>),
    /// Matrices that are put together of others.
    Woven(Box<Weave<Self>>),
    /// Others, with the changes of adapters.
    Merged(Box<Self>, Merged),
}

/// How others become values with the changes of adapters.
#[derive(Debug, Clone)]
pub(crate) struct Merged {
    merge: Arc<MergedAdapters>,
    /// The type of the others, and of these.
    types: [DType; 2],
    rows: usize,
    /// Values of a row.
    cols: usize,
}

/// Bytes of the rows that are read at once where all rows are looked at before the first is changed.
const LOOK: usize = 4 << 20;

/// Some rows of a source.
#[derive(Debug, Clone)]
pub(crate) struct EveryRow {
    all: SourceValues,
    every: Every,
    /// Number of rows.
    rows: usize,
    /// Bytes of each.
    each: usize,
}

/// Reads bytes of a file from an offset on.
type ReadInto<'r> = dyn FnMut(&str, u64, &mut [u8]) -> Result<(), SourceError> + 'r;

impl SourceValues {
    /// The values that a step packs, or takes over.
    pub(crate) fn of(step: &Step) -> Self {
        let values = Self::unmerged(step);
        match &step.merge {
            Some(merge) => {
                let [rows, cols] = step.matrix();
                let merged = Merged {
                    merge: Arc::clone(merge),
                    types: [step.float_read(), step.float()],
                    rows,
                    cols,
                };
                Self::Merged(values.into(), merged)
            }
            None => values,
        }
    }

    /// The values without the changes of adapters.
    fn unmerged(step: &Step) -> Self {
        let [rows, cols] = step.matrix();
        if let Some(woven) = step.woven {
            let [each, cols] = woven.each;
            let rows = step.slot.shape[0] * each;
            let all = Self::all(step, [rows, cols]);
            return Self::Woven(Box::new(Weave::new(
                all,
                woven,
                rows,
                step.float_read().size(),
            )));
        }
        let Some(every) = step.every else {
            return Self::all(step, [rows, cols]);
        };
        let (rows, cols) = match step.slot.role {
            Role::Bias => (rows * cols, 1),
            _ => (rows, cols),
        };
        Self::Some(Box::new(EveryRow {
            all: Self::all(step, [every.of, cols]),
            every,
            rows,
            each: cols * step.float_read().size(),
        }))
    }

    /// All values of a step's source, which has this shape.
    fn all(step: &Step, shape: [usize; 2]) -> Self {
        match &step.stored {
            Stored::Packed(adopt) => Self::Packed(Unpacked::new(adopt, shape)),
            Stored::Plain(_) | Stored::Other(_) => Self::Plain(Pieces::of(step)),
        }
    }

    /// Number of bytes.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Plain(pieces) => pieces.bytes(),
            Self::Packed(unpacked) => unpacked.bytes(),
            Self::Some(some) => some.rows * some.each,
            Self::Woven(weave) => weave.bytes(),
            Self::Merged(values, Merged { types, .. }) => {
                let [read, float] = types.map(DType::size);
                values.bytes() / read * float
            }
        }
    }

    /// The ranges of files that hold them.
    pub(super) fn reads(&self) -> Vec<(&str, Range<u64>)> {
        match self {
            Self::Plain(pieces) => pieces.reads().collect(),
            Self::Packed(unpacked) => unpacked.reads(),
            Self::Some(some) => some.all.reads(),
            Self::Woven(weave) => weave.all.reads(),
            Self::Merged(values, ..) => values.reads(),
        }
    }

    /// Rows that tiles had better be multiples of.
    pub(super) fn rows_together(&self) -> usize {
        match self {
            Self::Plain(_) => 1,
            Self::Packed(unpacked) => unpacked.rows_together(),
            Self::Some(some) => some.all.rows_together(),
            Self::Woven(_) => 1,
            Self::Merged(values, ..) => values.rows_together(),
        }
    }

    /// The range of a file that holds bytes `range` as they are, if a single one does.
    pub(super) fn stretch(&self, range: &Range<usize>) -> Option<Stretch<'_>> {
        match self {
            Self::Plain(pieces) => pieces.stretch(range),
            Self::Packed(_) | Self::Some(_) | Self::Woven(_) | Self::Merged(..) => None,
        }
    }

    /// Fills `into` with the bytes that begin with the one at `start`: whole rows, where they are unpacked, which is spread
    /// over `workers`. `read` fills memory from an offset of a file on. Returns how many bytes were read.
    pub(super) fn fill(
        &self,
        start: usize,
        into: &mut [u8],
        workers: &ThreadPool,
        mut read: impl FnMut(&str, u64, &mut [u8]) -> Result<(), SourceError>,
    ) -> Result<u64, RowError> {
        self.fill_by(start, into, workers, &mut read)
    }

    fn fill_by(
        &self,
        start: usize,
        into: &mut [u8],
        workers: &ThreadPool,
        read: &mut ReadInto<'_>,
    ) -> Result<u64, RowError> {
        match self {
            Self::Some(some) if some.every.run == 1 => some.pick(start, into, workers, read),
            Self::Some(some) => some.runs(start, into, workers, read),
            Self::Woven(weave) => weave.fill(start, into, |at, into| {
                weave.all.fill_by(at, into, workers, read)
            }),
            Self::Merged(values, merged) => merged.fill(values, start, into, workers, read),
            Self::Plain(pieces) => {
                pieces.fill(start, into, read)?;
                Ok(into.len() as u64)
            }
            Self::Packed(unpacked) => unpacked.fill(start, into, workers, read),
        }
    }
}

impl Merged {
    /// Fills `into` with changed rows of `values`.
    fn fill(
        &self,
        values: &SourceValues,
        start: usize,
        into: &mut [u8],
        workers: &ThreadPool,
        read: &mut ReadInto<'_>,
    ) -> Result<u64, RowError> {
        let ([_, float], cols) = (self.types, self.cols);
        let each = (cols * float.size()).max(1);
        let mut bytes_read = 0;
        if let Some(mut squares) = self.merge.unseen(cols) {
            let together = values.rows_together().max(1);
            let some = (LOOK / each).next_multiple_of(together).max(together);
            for first in (0..self.rows).step_by(some) {
                let rows = first..(first + some).min(self.rows);
                let (bytes, read) = self.rows(values, rows, workers, read)?;
                bytes_read += read;
                workers.install(|| self.merge.see(&mut squares, float, first, cols, &bytes));
            }
            self.merge.seen(squares);
        }
        // Whole rows, since a change may need the norm of its row.
        let rows = start / each..(start + into.len()).div_ceil(each);
        let (mut bytes, read) = self.rows(values, rows.clone(), workers, read)?;
        workers.install(|| self.merge.apply(float, rows.start, cols, &mut bytes));
        let first = start % each;
        into.copy_from_slice(&bytes[first..first + into.len()]);
        Ok(bytes_read + read)
    }

    /// Rows of `values` in the type in which they are changed, and how many bytes were read.
    fn rows(
        &self,
        values: &SourceValues,
        rows: Range<usize>,
        workers: &ThreadPool,
        read: &mut ReadInto<'_>,
    ) -> Result<(Vec<u8>, u64), RowError> {
        let [from, to] = self.types;
        let each = (self.cols * from.size()).max(1);
        let mut bytes = vec![0; rows.len() * each];
        let read = values.fill_by(rows.start * each, &mut bytes, workers, read)?;
        if from != to {
            let mut wide = vec![0.0; rows.len() * self.cols];
            from.widen(&bytes, &mut wide);
            bytes = bytemuck::cast_slice(&wide).to_vec();
        }
        Ok((bytes, read))
    }
}

impl EveryRow {
    /// Fills `into` from runs of many rows, each of which is read alone.
    fn runs(
        &self,
        start: usize,
        into: &mut [u8],
        workers: &ThreadPool,
        read: &mut ReadInto<'_>,
    ) -> Result<u64, RowError> {
        let run = self.every.run * self.each;
        let (mut at, mut rest, mut bytes) = (start, into, 0);
        while !rest.is_empty() {
            let len = rest.len().min(run - at % run);
            let (here, after) = rest.split_at_mut(len);
            let row = self.every.row(at / self.each);
            let from = row * self.each + at % self.each;
            bytes += self.all.fill_by(from, here, workers, read)?;
            (at, rest) = (at + len, after);
        }
        Ok(bytes)
    }

    /// Fills `into` from single rows, which are read with the rows between them.
    fn pick(
        &self,
        start: usize,
        into: &mut [u8],
        workers: &ThreadPool,
        read: &mut ReadInto<'_>,
    ) -> Result<u64, RowError> {
        let (each, step) = (self.each, self.every.step);
        // Whole rows, of which the outer ones may be wanted in part.
        let rows = start / each..(start + into.len()).div_ceil(each);
        let first = self.every.row(rows.start);
        let mut bytes = vec![0; ((rows.len() - 1) * step + 1) * each];
        let read = self.all.fill_by(first * each, &mut bytes, workers, read)?;
        let rows = bytes.chunks(step * each).flat_map(|row| &row[..each]);
        for (to, from) in into.iter_mut().zip(rows.skip(start % each)) {
            *to = *from;
        }
        Ok(read)
    }
}
