//! Pieces: which rows of which stored tensors a slot is made of, and for one of several ranks which of their columns.
//!
//! A stored tensor is read as rows: `[experts, out, in]` has `experts * out` rows of `in` values. A vector is a column:
//! each of its values is a row. The pieces of a slot follow one another along the rows of the slot.
//!
//! ```text
//! slot [out, in]        piece                       stored
//! rows 0..a      ◄────  rows r..r+a                 [.., in]
//! rows a..a+b    ◄────  rows s..s+in, transposed    [.., b]
//! ```

use core::ops::Range;

use firebox_kernels::arith::float::DType;

use super::{PlanError, sizes};
use crate::{
    dialect::plain,
    model::{Origin, Slot},
    source::TensorInfo,
};

/// Some rows of a stored tensor that become rows of a slot.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Piece {
    /// The stored tensor.
    pub tensor: TensorInfo,
    /// The stored rows, counted over all axes but the last; a vector has a row for each value.
    pub rows: Range<usize>,
    /// The stored columns, where they are not all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cols: Option<Range<usize>>,
    /// Whether these rows become columns of the slot.
    pub transposed: bool,
}

impl Piece {
    /// The rows that `origin` asks for, where `tensor` has them.
    pub(super) fn new(
        slot: &Slot,
        origin: &Origin,
        tensor: &TensorInfo,
    ) -> Result<Self, PlanError> {
        let [has, _] = stored_rows(tensor);
        let rows = origin.rows.clone().unwrap_or(0..has);
        if rows.start > rows.end || rows.end > has {
            return Err(PlanError::Rows {
                slot: slot.name.clone(),
                tensor: tensor.name.to_string(),
                file: (*tensor.file).into(),
                found: tensor.shape.as_slice().into(),
                rows,
                has,
            });
        }
        Ok(Self {
            tensor: tensor.clone(),
            rows,
            cols: None,
            transposed: origin.transposed,
        })
    }

    /// All of a tensor, as it is stored.
    pub(crate) fn whole(tensor: &TensorInfo) -> Self {
        let [rows, _] = stored_rows(tensor);
        Self {
            tensor: tensor.clone(),
            rows: 0..rows,
            cols: None,
            transposed: false,
        }
    }

    /// Whether it is all of the tensor, as it is stored.
    pub fn is_whole(&self) -> bool {
        self.has_all() && !self.transposed
    }

    /// Whether it is all of the tensor.
    fn has_all(&self) -> bool {
        self.rows == (0..stored_rows(&self.tensor)[0]) && self.cols.is_none()
    }

    /// Whether it is all of a matrix that is stored `[in, out]`.
    pub(super) fn is_turned(&self) -> bool {
        self.transposed && self.has_all() && self.tensor.shape.len() == 2
    }

    /// Rows and columns of the slot that it fills.
    pub fn shape(&self) -> [usize; 2] {
        let [rows, cols] = [self.rows.len(), self.stored_cols().len()];
        if self.transposed {
            [cols, rows]
        } else {
            [rows, cols]
        }
    }

    /// The stored columns that it has.
    pub fn stored_cols(&self) -> Range<usize> {
        let [_, cols] = stored_rows(&self.tensor);
        self.cols.clone().unwrap_or(0..cols)
    }

    /// Some rows and columns of what it fills.
    pub(crate) fn slice(&self, rows: Range<usize>, cols: Range<usize>) -> Self {
        let (rows, cols) = match self.transposed {
            true => (cols, rows),
            false => (rows, cols),
        };
        let within =
            |all: Range<usize>, some: Range<usize>| all.start + some.start..all.start + some.end;
        let [_, stored] = stored_rows(&self.tensor);
        let cols = within(self.stored_cols(), cols);
        Self {
            tensor: self.tensor.clone(),
            rows: within(self.rows.clone(), rows),
            cols: (cols != (0..stored)).then_some(cols),
            transposed: self.transposed,
        }
    }

    /// Bytes from a stored row to the next.
    pub fn row_bytes(&self) -> u64 {
        let [rows, _] = stored_rows(&self.tensor);
        self.tensor.bytes() / rows.max(1) as u64
    }

    /// Bytes of a stored row that it has.
    pub(crate) fn part_bytes(&self) -> u64 {
        self.within_row().end - self.within_row().start
    }

    /// The bytes of a stored row that it has, counted from the start of the row.
    pub(crate) fn within_row(&self) -> Range<u64> {
        let Some(cols) = &self.cols else {
            return 0..self.row_bytes();
        };
        let [_, all] = stored_rows(&self.tensor);
        let size = self.row_bytes() / all.max(1) as u64;
        cols.start as u64 * size..cols.end as u64 * size
    }

    /// Bytes that are stored.
    pub fn bytes(&self) -> u64 {
        self.rows.len() as u64 * self.part_bytes()
    }

    /// Its bytes, counted from the start of the tensor's file: one range, or one for each row of which it has some columns.
    pub fn ranges(&self) -> impl Iterator<Item = Range<u64>> + use<> {
        let (row, within) = (self.row_bytes(), self.within_row());
        let start = self.tensor.range.start + self.rows.start as u64 * row;
        let (count, step, len) = match self.cols {
            None => (1, 0, self.bytes()),
            Some(_) => (self.rows.len() as u64, row, self.part_bytes()),
        };
        (0..count).map(move |nth| {
            let start = start + nth * step + within.start;
            start..start + len
        })
    }
}

/// A stored tensor as rows and columns.
fn stored_rows(tensor: &TensorInfo) -> [usize; 2] {
    match tensor.shape[..] {
        [] => [1, 1],
        [len] => [len, 1],
        [ref outer @ .., cols] => [outer.iter().product(), cols],
    }
}

/// The pieces of `slot` in `tensors`, one for each of its origins, and the type of their values.
pub(crate) fn made_of<'t>(
    slot: &Slot,
    tensors: impl IntoIterator<Item = &'t TensorInfo>,
) -> Result<(Vec<Piece>, DType), PlanError> {
    let pieces = slot.from.iter().zip(tensors);
    let pieces = pieces.map(|(origin, tensor)| Piece::new(slot, origin, tensor));
    let pieces: Vec<Piece> = pieces.collect::<Result<_, _>>()?;
    let dtype = check(slot, &pieces)?;
    Ok((pieces, dtype))
}

/// Refuses pieces that do not make up the slot. Returns the type of their values.
pub(super) fn check(slot: &Slot, pieces: &[Piece]) -> Result<DType, PlanError> {
    if let ([piece], [origin]) = (pieces, &slot.from[..])
        && origin.is_whole()
        && piece.is_whole()
        && piece.tensor.shape != slot.shape
    {
        return Err(PlanError::Shape {
            tensor: origin.tensor.clone(),
            sizes: sizes::difference(slot, &piece.tensor.shape).into(),
            file: piece.tensor.file.to_string(),
            found: piece.tensor.shape.as_slice().into(),
            expected: slot.shape.as_slice().into(),
        });
    }
    let [rows, cols] = match slot.shape[..] {
        [] => [1, 1],
        [len] => [len, 1],
        [ref outer @ .., cols] => [outer.iter().product(), cols],
    };
    let (mut found, mut values) = (0, 0);
    for piece in pieces {
        let shape = piece.shape();
        // A vector is a row of a matrix as well.
        let is_row = shape == [cols, 1] && piece.tensor.shape.len() == 1 && !piece.transposed;
        if shape[1] != cols && !is_row {
            return Err(PlanError::Piece {
                slot: slot.name.as_str().into(),
                expected: slot.shape.as_slice().into(),
                tensor: piece.tensor.name.to_string(),
                file: (*piece.tensor.file).into(),
                found: piece.tensor.shape.as_slice().into(),
                piece: Box::new(shape),
            });
        }
        found += if shape[1] == cols { shape[0] } else { 1 };
        values += shape[0] * shape[1];
    }
    if found != rows || values != rows * cols {
        return Err(PlanError::Pieces {
            slot: slot.name.clone(),
            expected: slot.shape.clone(),
            pieces: pieces.len(),
            found,
            rows,
        });
    }
    dtype(slot, pieces)
}

/// The type of plain values that all pieces have.
fn dtype(slot: &Slot, pieces: &[Piece]) -> Result<DType, PlanError> {
    let mut found = None;
    for Piece { tensor, .. } in pieces {
        let Some(dtype) = plain(tensor.dtype) else {
            return Err(PlanError::Dtype {
                tensor: tensor.name.to_string(),
                file: tensor.file.to_string(),
                found: tensor.dtype,
            });
        };
        match found {
            Some((first, _)) if first != dtype => {
                return Err(PlanError::PieceTypes {
                    slot: slot.name.clone(),
                    first: pieces[0].tensor.name.to_string(),
                    first_dtype: pieces[0].tensor.dtype,
                    second: tensor.name.to_string(),
                    second_dtype: tensor.dtype,
                });
            }
            Some(_) => {}
            None => found = Some((dtype, tensor)),
        }
    }
    found
        .map(|(dtype, _)| dtype)
        .ok_or_else(|| PlanError::Pieces {
            slot: slot.name.clone(),
            expected: slot.shape.clone(),
            pieces: 0,
            found: 0,
            rows: slot.shape.iter().product(),
        })
}
