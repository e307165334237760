//! Where the rows and columns of a packed weight lie in the bytes of its tensors.

use core::ops::Range;

use crate::source::TensorInfo;

/// Bytes of a part: `count` runs of `len` bytes, `stride` bytes from one to the next.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ByteRuns {
    pub(crate) start: usize,
    pub(crate) len: usize,
    pub(crate) stride: usize,
    pub(crate) count: usize,
}

impl ByteRuns {
    pub(super) fn one(range: Range<usize>) -> Self {
        Self {
            start: range.start,
            len: range.len(),
            stride: 0,
            count: 1,
        }
    }

    /// Bytes `within` of each of some stored rows of `row` bytes.
    pub(super) fn of_rows(rows: Range<usize>, row: usize, within: Range<usize>) -> Self {
        if within.len() == row {
            return Self::one(rows.start * row..rows.end * row);
        }
        Self {
            start: rows.start * row + within.start,
            len: within.len(),
            stride: row,
            count: rows.len(),
        }
    }

    /// The ranges, counted from the start of the part.
    pub(crate) fn ranges(self) -> impl Iterator<Item = Range<usize>> {
        (0..self.count).map(move |nth| {
            let start = self.start + nth * self.stride;
            start..start + self.len
        })
    }
}

/// How the values of a weight `[out, in]` lie in one of its parts.
#[derive(Debug, Clone, Copy)]
pub(super) enum PartLayout {
    /// All rows need all of it.
    All,
    /// Each `values` values, which follow one another, have `bytes` bytes.
    Along { values: usize, bytes: usize },
    /// The same, whatever the columns: one scale of a whole row, or of several.
    Over { values: usize, bytes: usize },
    /// Each `rows` rows have `lines` stored rows, in which `cols` columns have `bytes` bytes.
    Tiles {
        rows: usize,
        lines: usize,
        cols: usize,
        bytes: usize,
    },
    /// Each stored row has `bytes` bytes for each `rows` rows of the weight; columns have whole stored rows.
    Across { rows: usize, bytes: usize },
    /// The value `k` has the `bytes` bytes of element `k % elements`.
    Around { elements: usize, bytes: usize },
}

impl PartLayout {
    /// The bytes of some rows and columns of a weight with `i` columns; `None` where it has all columns together.
    pub(super) fn runs(
        self,
        part: &TensorInfo,
        rows: &Range<usize>,
        cols: &Range<usize>,
        i: usize,
    ) -> Option<Vec<ByteRuns>> {
        let all = part.bytes() as usize;
        let (first, end) = (rows.start * i, rows.end * i);
        let all_cols = *cols == (0..i);
        Some(match self {
            Self::All => vec![ByteRuns::one(0..all)],
            Self::Along { values, bytes } if !all_cols => {
                let apart = gcd(values, bytes);
                let (values, bytes) = (values / apart, bytes / apart);
                let mut sides = [i, cols.start, cols.end].into_iter();
                if !sides.all(|side| side.is_multiple_of(values)) {
                    return None;
                }
                let at = |column: usize| column / values * bytes;
                let within = at(cols.start)..at(cols.end);
                vec![ByteRuns::of_rows(rows.clone(), at(i), within)]
            }
            Self::Along { values, bytes } | Self::Over { values, bytes } => {
                let range = first / values * bytes..end.div_ceil(values) * bytes;
                vec![ByteRuns::one(range.start..range.end.min(all))]
            }
            Self::Tiles {
                rows: high,
                lines,
                cols: wide,
                bytes,
            } => {
                let lines = rows.start / high * lines..rows.end.div_ceil(high) * lines;
                let row = i.div_ceil(wide) * bytes;
                let lines = lines.start..lines.end.min(all / row.max(1));
                let within = cols.start / wide * bytes..cols.end.div_ceil(wide) * bytes;
                vec![ByteRuns::of_rows(lines, row, within)]
            }
            Self::Across { rows: apart, bytes } => {
                let stored = part.shape[0];
                let row = all / stored.max(1);
                let of_cols =
                    cols.start * stored / i.max(1)..(cols.end * stored).div_ceil(i.max(1));
                let within =
                    rows.start / apart * bytes..(rows.end.div_ceil(apart) * bytes).min(row);
                vec![ByteRuns::of_rows(of_cols, row, within)]
            }
            Self::Around { .. } if !all_cols => return None,
            Self::Around { elements, bytes } => {
                let mut runs = Vec::new();
                let mut at = first;
                while at < end {
                    let start = at % elements;
                    let len = (elements - start).min(end - at);
                    runs.push(ByteRuns::one(start * bytes..(start + len) * bytes));
                    at += len;
                }
                runs
            }
        })
    }
}

/// The greatest common divisor; `a` is not 0.
pub(super) const fn gcd(mut a: usize, mut b: usize) -> usize {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}
