//! The stored bytes of a weight, which may lie in several tensors: some rows of each, one piece after another.
//!
//! ```text
//! pieces   [rows 0..4 of a] [rows 2..6 of b] [c, stored transposed]
//! bytes    0 ────────────────────────────────────────────────► end      in the order of the weight
//! ```
//!
//! A piece that is stored as the weight wants it is one range of a file, or one for each row of which it has some columns. A
//! transposed piece is read in blocks of stored rows, which become columns of the weight. Values of F64 become `f32` as they are read: bytes of a weight are bytes of `f32` then.

use core::ops::Range;

use crate::{
    dialect::ByteRuns,
    plan::{Piece, Step},
    source::{SourceError, StoredType, TensorInfo},
};

/// The pieces of one weight, whose values take `size` bytes each.
#[derive(Debug, Clone)]
pub(crate) struct Pieces {
    pieces: Vec<Piece>,
    size: usize,
}

/// A range of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stretch<'p> {
    pub(super) file: &'p str,
    pub(super) offset: u64,
}

/// Bytes of a transposed piece that are read before they are spread over the rows of a weight, and of F64 that are read before they
/// are rounded.
const BLOCK_BYTES: usize = 256 << 10;

impl Pieces {
    pub(crate) fn new(pieces: Vec<Piece>, size: usize) -> Self {
        Self { pieces, size }
    }

    /// The values that a step packs, or takes over.
    pub(crate) fn of(step: &Step) -> Self {
        Self::new(step.pieces.clone(), step.float_read().size())
    }

    /// All bytes of a tensor of any type.
    pub(super) fn stored(tensor: &TensorInfo) -> Self {
        let mut tensor = tensor.clone();
        tensor.shape = vec![tensor.bytes() as usize];
        tensor.dtype = StoredType::U8;
        Self::new(vec![Piece::whole(&tensor)], 1)
    }

    /// Some bytes of a tensor of any type, one run after another.
    pub(super) fn runs(tensor: &TensorInfo, runs: &[ByteRuns]) -> Self {
        let pieces = runs.iter().map(|runs| {
            let mut part = tensor.clone();
            let stride = if runs.count > 1 {
                runs.stride
            } else {
                runs.len
            };
            let start = tensor.range.start + runs.start as u64;
            part.range = start..start + (runs.count * stride) as u64;
            part.shape = vec![runs.count, stride];
            part.dtype = StoredType::U8;
            Piece::whole(&part).slice(0..runs.count, 0..runs.len)
        });
        Self::new(pieces.collect(), 1)
    }

    /// Number of bytes.
    pub(super) fn bytes(&self) -> usize {
        self.pieces.iter().map(bytes).sum()
    }

    /// The ranges of files that hold them.
    pub(super) fn reads(&self) -> impl Iterator<Item = (&str, Range<u64>)> {
        let pieces = self.pieces.iter();
        pieces.flat_map(|piece| piece.ranges().map(|range| (&*piece.tensor.file, range)))
    }

    /// The range of a file that holds bytes `range`, if a single one does.
    pub(super) fn stretch(&self, range: &Range<usize>) -> Option<Stretch<'_>> {
        let (piece, at) = self.overlaps(range.clone()).next()?;
        let within = (at.end - at.start) == range.len() && !piece.transposed && !is_wide(piece);
        let (offset, len) = place(piece, at.start);
        (within && range.len() as u64 <= len).then(|| Stretch {
            file: &piece.tensor.file,
            offset,
        })
    }

    /// Fills `into` with the bytes that begin with the one at `start`. `read` fills memory from an offset of a file on.
    pub(super) fn fill(
        &self,
        start: usize,
        into: &mut [u8],
        mut read: impl FnMut(&str, u64, &mut [u8]) -> Result<(), SourceError>,
    ) -> Result<(), SourceError> {
        let mut rest = into;
        for (piece, at) in self.overlaps(start..start + rest.len()) {
            let (here, after) = rest.split_at_mut(at.len());
            rest = after;
            if piece.transposed {
                self.transpose(piece, at.start, here, &mut read)?;
            } else {
                read_values(piece, at.start, here, &mut read)?;
            }
        }
        Ok(())
    }

    /// The pieces that have some of bytes `range`, and which bytes of each piece these are.
    fn overlaps(&self, range: Range<usize>) -> impl Iterator<Item = (&Piece, Range<usize>)> {
        let mut first = 0;
        self.pieces.iter().filter_map(move |piece| {
            let before = first;
            first += bytes(piece);
            let [start, end] = [range.start, range.end].map(|at| at.clamp(before, first) - before);
            (start < end).then_some((piece, start..end))
        })
    }

    /// Fills `into` with bytes of a transposed piece, from its byte `start` on.
    ///
    /// A row of the weight is a stored column: `out` columns of `in` values each, `in` being the stored rows.
    fn transpose(
        &self,
        piece: &Piece,
        start: usize,
        into: &mut [u8],
        read: &mut impl FnMut(&str, u64, &mut [u8]) -> Result<(), SourceError>,
    ) -> Result<(), SourceError> {
        let (size, cols) = (self.size, piece.rows.len());
        let (first, end) = (start / size, (start + into.len()) / size);
        let rows = first / cols..end.div_ceil(cols);
        let row_bytes = rows.len() * size;
        let [stored_cols, _] = piece.shape();
        let block = (BLOCK_BYTES / row_bytes).clamp(1, cols);
        let mut bytes = vec![0; block * row_bytes];
        for col in (0..cols).step_by(block) {
            let block = block.min(cols - col);
            let bytes = &mut bytes[..block * row_bytes];
            let start = |nth: usize| ((col + nth) * stored_cols + rows.start) * size;
            if rows.len() == stored_cols {
                read_values(piece, start(0), bytes, read)?;
            } else {
                for (nth, bytes) in bytes.chunks_mut(row_bytes).enumerate() {
                    read_values(piece, start(nth), bytes, read)?;
                }
            }
            for row in rows.clone() {
                // A range may begin and end within a row.
                let values = row * cols + col..row * cols + col + block;
                for value in values.start.max(first)..values.end.min(end) {
                    let from = ((value - values.start) * rows.len() + row - rows.start) * size;
                    let to = (value - first) * size;
                    into[to..to + size].copy_from_slice(&bytes[from..from + size]);
                }
            }
        }
        Ok(())
    }
}

/// Whether the values of a piece become narrower as they are read.
fn is_wide(piece: &Piece) -> bool {
    piece.tensor.dtype == StoredType::F64
}

/// Bytes of a piece in the weight.
fn bytes(piece: &Piece) -> usize {
    piece.bytes() as usize / if is_wide(piece) { 2 } else { 1 }
}

/// Where the stored byte `at` of a piece is in its file, and how many bytes of the piece follow one another from there on.
fn place(piece: &Piece, at: usize) -> (u64, u64) {
    let (row, within, at) = (piece.row_bytes(), piece.within_row(), at as u64);
    let first = piece.tensor.range.start + piece.rows.start as u64 * row;
    if piece.cols.is_none() {
        return (first + at, piece.bytes() - at);
    }
    let len = within.end - within.start;
    let (nth, at) = (at / len.max(1), at % len.max(1));
    (first + nth * row + within.start + at, len - at)
}

/// Fills `into` with stored bytes of a piece, from its byte `start` on.
fn read_stored(
    piece: &Piece,
    start: usize,
    into: &mut [u8],
    read: &mut impl FnMut(&str, u64, &mut [u8]) -> Result<(), SourceError>,
) -> Result<(), SourceError> {
    let (mut at, mut rest) = (start, into);
    while !rest.is_empty() {
        let (offset, len) = place(piece, at);
        let (here, after) = rest.split_at_mut(rest.len().min(len as usize));
        read(&piece.tensor.file, offset, here)?;
        (at, rest) = (at + here.len(), after);
    }
    Ok(())
}

/// Fills `into` with bytes of a piece as the weight has them, from its byte `start` on, in the order of the file.
fn read_values(
    piece: &Piece,
    start: usize,
    into: &mut [u8],
    read: &mut impl FnMut(&str, u64, &mut [u8]) -> Result<(), SourceError>,
) -> Result<(), SourceError> {
    if !is_wide(piece) {
        return read_stored(piece, start, into, read);
    }
    let mut wide = vec![0; BLOCK_BYTES.min(2 * into.len())];
    for (nth, into) in into.chunks_mut(BLOCK_BYTES / 2).enumerate() {
        let wide = &mut wide[..2 * into.len()];
        read_stored(piece, 2 * start + nth * BLOCK_BYTES, wide, read)?;
        let (values, _) = wide.as_chunks();
        for (to, value) in into.chunks_mut(size_of::<f32>()).zip(values) {
            to.copy_from_slice(&(f64::from_le_bytes(*value) as f32).to_le_bytes());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::StoredType;

    fn tensor(name: &str, shape: &[usize], start: u64) -> TensorInfo {
        let bytes = shape.iter().product::<usize>() as u64 * 2;
        TensorInfo {
            name: name.into(),
            file: name.into(),
            dtype: StoredType::F16,
            shape: shape.to_vec(),
            range: start..start + bytes,
        }
    }

    /// A value of file `f` at element `k` is 1000 times the letter's place in the alphabet and `k`.
    fn file(name: &str, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        let letter = 1000 * u16::from(name.as_bytes()[0] - b'a');
        for (nth, bytes) in into.chunks_mut(2).enumerate() {
            let value = letter + offset as u16 / 2 + nth as u16;
            bytes.copy_from_slice(&value.to_le_bytes());
        }
        Ok(())
    }

    fn pieces() -> Pieces {
        let piece = |tensor, rows, transposed| Piece {
            tensor,
            rows,
            cols: None,
            transposed,
        };
        // A matrix of three columns.
        Pieces::new(
            vec![
                piece(tensor("a", &[4, 3], 20), 1..3, false),
                // The second of two stacked matrices [3, 5].
                piece(tensor("b", &[2, 3, 5], 0), 3..6, true),
                piece(tensor("c", &[2, 3], 0), 0..2, false),
            ],
            2,
        )
    }

    /// Any range gives the same values as the whole, worked out by hand. Would catch a stack's wrong matrix, a transposed
    /// piece that is not, and ranges across pieces or within rows.
    #[test]
    fn every_range_is_a_range_of_the_whole() {
        let expected: [[u16; 3]; 9] = [
            [13, 14, 15],
            [16, 17, 18],
            [1015, 1020, 1025],
            [1016, 1021, 1026],
            [1017, 1022, 1027],
            [1018, 1023, 1028],
            [1019, 1024, 1029],
            [2000, 2001, 2002],
            [2003, 2004, 2005],
        ];
        let expected: Vec<u8> = (expected.as_flattened().iter())
            .flat_map(|value| value.to_le_bytes())
            .collect();
        let pieces = pieces();
        assert_eq!(pieces.bytes(), expected.len());
        for start in (0..expected.len()).step_by(2) {
            for end in (start..=expected.len()).step_by(2) {
                let mut found = vec![0; end - start];
                pieces.fill(start, &mut found, file).expect("reads");
                assert_eq!(found, expected[start..end], "bytes {start}..{end}");
            }
        }
    }

    /// Some columns give the values that a hand picks. Would catch a step from row to row that is the width of the part, and
    /// columns of a transposed piece that are taken for its rows.
    #[test]
    fn columns_of_a_piece_are_picked_row_by_row() {
        let [a, b] = [
            Piece::whole(&tensor("a", &[4, 6], 20)),
            Piece {
                transposed: true,
                ..Piece::whole(&tensor("b", &[5, 4], 0))
            },
        ];
        // Rows 1 and 2, columns 2 to 4; of the turned one, stored columns 1 and 2, stored rows 0 to 2.
        let pieces = Pieces::new(vec![a.slice(1..3, 2..5), b.slice(1..3, 0..3)], 2);
        let expected: [u16; 12] = [18, 19, 20, 24, 25, 26, 1001, 1005, 1009, 1002, 1006, 1010];
        let expected: Vec<u8> = expected
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        assert_eq!(pieces.bytes(), expected.len());
        for start in (0..expected.len()).step_by(2) {
            for end in (start..=expected.len()).step_by(2) {
                let mut found = vec![0; end - start];
                pieces.fill(start, &mut found, file).expect("reads");
                assert_eq!(found, expected[start..end], "bytes {start}..{end}");
            }
        }
        let at = |file, offset| Some(Stretch { file, offset });
        assert_eq!(pieces.stretch(&(0..6)), at("a", 36));
        assert_eq!(pieces.stretch(&(8..12)), at("a", 50));
        assert_eq!(pieces.stretch(&(4..8)), None);
        let ranges: Vec<_> = a.slice(1..3, 2..5).ranges().collect();
        assert_eq!(ranges, [36..42, 48..54]);
    }

    /// Would catch a map that is handed out for bytes of two tensors, or of a transposed one.
    #[test]
    fn one_stretch_of_a_file_is_found() {
        let pieces = pieces();
        let at = |file, offset| Some(Stretch { file, offset });
        assert_eq!(pieces.stretch(&(0..12)), at("a", 26));
        assert_eq!(pieces.stretch(&(2..6)), at("a", 28));
        assert_eq!(pieces.stretch(&(0..14)), None);
        assert_eq!(pieces.stretch(&(12..14)), None);
        assert_eq!(pieces.stretch(&(42..54)), at("c", 0));
    }
}
