//! Documents become rows.

use std::{cmp::Reverse, collections::BTreeSet};

use crate::train::batch::Row;

/// A document of at most a row's length, or a part of a longer one. Both fields have one entry a token.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct DocumentPiece {
    pub(super) ids: Vec<u32>,
    pub(super) labels: Vec<Option<u32>>,
}

impl DocumentPiece {
    /// The tokens of a document as inputs and labels. The last trained token is a label alone: no token is trained on what
    /// comes after.
    pub(super) fn new(ids: &[u32], is_trained: impl Fn(usize) -> bool) -> Self {
        // The first token follows nothing.
        let label = |place: usize| is_trained(place).then(|| ids[place]);
        let piece = Self {
            ids: ids.to_vec(),
            labels: (1..ids.len()).map(label).collect(),
        };
        piece.trimmed()
    }

    /// Without the tokens behind the last label.
    pub(super) fn trimmed(mut self) -> Self {
        let last = self.labels.iter().rposition(Option::is_some);
        let len = last.map_or(0, |last| last + 1);
        self.ids.truncate(len);
        self.labels.truncate(len);
        self
    }

    /// Parts of at most `length` tokens. The label of the last token of a part is the first token of the next one, so that
    /// every label is in one part.
    pub(super) fn cut(&self, length: usize) -> impl Iterator<Item = Self> {
        let parts = self.ids.chunks(length).zip(self.labels.chunks(length));
        parts.map(|(ids, labels)| Self {
            ids: ids.to_vec(),
            labels: labels.to_vec(),
        })
    }
}

/// A row for each piece.
pub(super) fn one_a_row(pieces: Vec<DocumentPiece>) -> Vec<Row> {
    pieces.into_iter().map(|piece| row(vec![piece])).collect()
}

/// Each piece, the longest first, goes to the row in which the least room is left after it: best fit decreasing, which needs at
/// most 11/9 of the fewest rows, and one (Johnson, 1973). The rows are in the order of their first pieces, and so are the pieces
/// of a row.
pub(super) fn best_fit(pieces: Vec<DocumentPiece>, length: usize) -> Vec<Row> {
    let mut by_size: Vec<usize> = (0..pieces.len()).collect();
    by_size.sort_by_key(|nth| (Reverse(pieces[*nth].ids.len()), *nth));
    let mut rows: Vec<Vec<usize>> = Vec::new();
    // Rows by the room that is left.
    let mut open: BTreeSet<(usize, usize)> = BTreeSet::new();
    for nth in by_size {
        let size = pieces[nth].ids.len();
        let found = open.range((size, 0)..).next().copied();
        let (room, row) = match found {
            Some(found) => {
                open.remove(&found);
                found
            }
            None => {
                rows.push(Vec::new());
                (length, rows.len() - 1)
            }
        };
        rows[row].push(nth);
        if room > size {
            open.insert((room - size, row));
        }
    }
    for row in &mut rows {
        row.sort_unstable();
    }
    rows.sort_unstable();
    let mut pieces: Vec<Option<DocumentPiece>> = pieces.into_iter().map(Some).collect();
    let rows = rows.into_iter();
    rows.map(|row_of| row(row_of.iter().filter_map(|nth| pieces[*nth].take())))
        .collect()
}

fn row(pieces: impl IntoIterator<Item = DocumentPiece>) -> Row {
    let mut row = Row::default();
    for piece in pieces {
        let start = row.ids.len() as u32;
        row.starts.resize(row.ids.len() + piece.ids.len(), start);
        row.ids.extend(piece.ids);
        row.labels.extend(piece.labels);
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(lengths: &[usize]) -> Vec<DocumentPiece> {
        let piece = |(nth, length): (usize, &usize)| DocumentPiece {
            ids: vec![nth as u32; *length],
            labels: vec![None; *length],
        };
        lengths.iter().enumerate().map(piece).collect()
    }

    /// By hand: 7, 6, 5 open rows; 4 goes to 6, 3 to 7 (whose room it fills), 3 to 5, 2 to what 5 and 3 leave.
    #[test]
    fn best_fit_is_that_by_hand() {
        let rows = best_fit(pieces(&[3, 7, 2, 5, 3, 6, 4]), 10);
        let documents: Vec<Vec<u32>> = rows
            .iter()
            .map(|row| {
                let mut ids = row.ids.clone();
                ids.dedup();
                ids
            })
            .collect();
        assert_eq!(documents, [vec![0, 1], vec![2, 3, 4], vec![5, 6]]);
        assert_eq!(rows[0].starts, [0, 0, 0, 3, 3, 3, 3, 3, 3, 3]);
        assert_eq!(rows[1].starts, [0, 0, 2, 2, 2, 2, 2, 7, 7, 7]);
    }

    #[test]
    fn the_last_trained_token_is_a_label_alone() {
        let piece = DocumentPiece::new(&[5, 6, 7, 8, 9], |place| place == 1 || place == 3);
        assert_eq!(piece.ids, [5, 6, 7]);
        assert_eq!(piece.labels, [Some(6), None, Some(8)]);
        assert_eq!(
            DocumentPiece::new(&[5, 6], |place| place == 0),
            DocumentPiece::default()
        );
    }

    #[test]
    fn every_label_is_in_one_part() {
        let piece = DocumentPiece::new(&[1, 2, 3, 4, 5, 6], |_| true);
        let parts: Vec<DocumentPiece> = piece.cut(2).collect();
        assert_eq!(parts.len(), 3);
        assert_eq!(parts[1].ids, [3, 4]);
        assert_eq!(parts[1].labels, [Some(4), Some(5)]);
        assert_eq!(parts[2].labels, [Some(6)]);
    }
}
