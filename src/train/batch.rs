//! Rows of tokens that are trained on at once.

use core::ops::Range;

/// A row of tokens: one document, or several one after the other. All fields have one entry a token.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Row {
    /// The tokens.
    pub ids: Vec<u32>,
    /// The token that should follow, where the model is trained on it.
    pub labels: Vec<Option<u32>>,
    /// The place in the row where the document of the token begins. A token sees those from there to itself, and its
    /// position is the distance from there.
    pub starts: Vec<u32>,
}

/// Rows of one length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    rows: usize,
    all: Row,
}

impl Batch {
    /// Rows one below the other; the shorter ones are filled up with tokens that see themselves alone and are not trained on.
    pub fn new(rows: &[Row]) -> Self {
        let length = rows.iter().map(|row| row.ids.len()).max().unwrap_or(0);
        let mut all = Row::default();
        for row in rows {
            let filling = row.ids.len() as u32..length as u32;
            all.ids.extend(&row.ids);
            all.ids.extend(filling.clone().map(|_| 0));
            all.labels.extend(&row.labels);
            all.labels.extend(filling.clone().map(|_| None));
            all.starts.extend(&row.starts);
            all.starts.extend(filling);
        }
        Self {
            rows: rows.len(),
            all,
        }
    }

    /// Some of its rows, as long as they are.
    pub(super) fn part(&self, rows: Range<usize>) -> Self {
        let [_, tokens] = self.shape();
        let places = rows.start * tokens..rows.end * tokens;
        let all = Row {
            ids: self.all.ids[places.clone()].to_vec(),
            labels: self.all.labels[places.clone()].to_vec(),
            starts: self.all.starts[places].to_vec(),
        };
        Self {
            rows: rows.len(),
            all,
        }
    }

    /// Rows, and tokens of each.
    pub fn shape(&self) -> [usize; 2] {
        [self.rows, self.all.ids.len() / self.rows.max(1)]
    }

    /// The tokens, row by row.
    pub fn ids(&self) -> &[u32] {
        &self.all.ids
    }

    /// The token that should follow each, where the model is trained on it, row by row.
    pub fn labels(&self) -> &[Option<u32>] {
        &self.all.labels
    }

    /// The place in its row where the document of each token begins, row by row.
    pub fn starts(&self) -> &[u32] {
        &self.all.starts
    }

    /// How many tokens the model is trained on.
    pub fn trained(&self) -> usize {
        self.all.labels.iter().flatten().count()
    }
}
