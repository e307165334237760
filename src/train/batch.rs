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

    /// The same with a label, where it has none: of a row of one token, where it has no row either.
    pub(super) fn labelled(mut self) -> Self {
        if self.all.ids.is_empty() {
            self = Self::new(&[Row {
                ids: vec![0],
                labels: vec![None],
                starts: vec![0],
            }]);
        }
        if self.trained() == 0 {
            self.all.labels[0] = Some(self.all.ids[0]);
        }
        self
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

/// The rows of a batch that one of several ranks has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BatchPart {
    pub(super) batch: Batch,
    /// Whether some of their tokens are trained on. Rows without such a token are computed all the same, since other ranks may wait
    /// for what this one has of the weights.
    pub(super) counts: bool,
}

impl BatchPart {
    /// All of a batch.
    pub(super) const fn whole(batch: Batch) -> Self {
        Self {
            batch,
            counts: true,
        }
    }

    /// Some rows of a batch.
    pub(super) fn of(batch: &Batch, rows: Range<usize>) -> Self {
        let part = batch.part(rows);
        Self {
            counts: part.trained() > 0,
            batch: part.labelled(),
        }
    }

    /// How many tokens the model is trained on.
    pub(super) fn trained(&self) -> usize {
        match self.counts {
            true => self.batch.trained(),
            false => 0,
        }
    }
}
