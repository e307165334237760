//! Documents in a row of tokens.
//!
//! Letters: `b` rows, `t` tokens.

use core::ops::Range;
use std::{collections::BTreeMap, sync::Arc};

/// Which tokens of `b` rows of `t` tokens are one document. Documents lie one after the other in a row; a token sees those of its own
/// document, and its position is its distance from the first of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Documents {
    shape: [usize; 2],
    /// The place in its row where the document of each token begins, row by row; `None` where each row is one document.
    starts: Option<Arc<[u32]>>,
}

/// Places where documents begin that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentsError {
    /// Not one place for each token.
    #[error(
        "{found} places where documents begin were given for {rows} rows of {tokens} tokens; give one for each token"
    )]
    Count {
        /// How many were given.
        found: usize,
        /// `b`.
        rows: usize,
        /// `t`.
        tokens: usize,
    },
    /// A token's document begins neither with it nor where that of the token before does.
    #[error(
        "row {row}: the document of token {token} is said to begin at {start}; it begins there or, as that of the token before, at \
         {before}"
    )]
    Start {
        /// The row, from 0.
        row: usize,
        /// The token, from 0.
        token: usize,
        /// Where its document is said to begin.
        start: u32,
        /// Where that of the token before begins.
        before: u32,
    },
}

impl Documents {
    /// Each of `[b, t]` tokens' rows is one document.
    pub const fn whole(shape: [usize; 2]) -> Self {
        Self {
            shape,
            starts: None,
        }
    }

    /// Documents of `[b, t]` tokens: the place in its row, from 0, where the document of each token begins, row by row. Tokens that
    /// fill up a row begin a document each.
    ///
    /// # Errors
    ///
    /// [`DocumentsError`] when there is not one place for each token, or documents do not lie one after the other.
    pub fn new(starts: &[u32], shape @ [rows, tokens]: [usize; 2]) -> Result<Self, DocumentsError> {
        let found = starts.len();
        if rows.checked_mul(tokens) != Some(found) {
            return Err(DocumentsError::Count {
                found,
                rows,
                tokens,
            });
        }
        for (row, of_row) in starts.chunks(tokens.max(1)).enumerate() {
            let mut before = 0;
            for (token, start) in of_row.iter().copied().enumerate() {
                if start != before && start as usize != token {
                    return Err(DocumentsError::Start {
                        row,
                        token,
                        start,
                        before,
                    });
                }
                before = start;
            }
        }
        let whole = starts.iter().all(|start| *start == 0);
        Ok(Self {
            shape,
            starts: (!whole).then(|| starts.into()),
        })
    }

    /// `[b, t]`.
    pub const fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// Whether each row is one document.
    pub const fn is_whole(&self) -> bool {
        self.starts.is_none()
    }

    /// The place in its row where the document of a token begins.
    pub(super) fn start(&self, row: usize, token: usize) -> usize {
        let [_, tokens] = self.shape;
        let starts = self.starts.as_ref();
        starts.map_or(0, |starts| starts[row * tokens + token] as usize)
    }

    /// The tokens of each document, counted over all rows, in their order.
    pub fn ranges(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let [rows, tokens] = self.shape;
        (0..rows).flat_map(move |row| {
            let mut token = 0;
            core::iter::from_fn(move || {
                let first = token;
                if first == tokens {
                    return None;
                }
                token += 1;
                while token < tokens && self.start(row, token) == first {
                    token += 1;
                }
                Some(row * tokens + first..row * tokens + token)
            })
        })
    }

    /// The first tokens of all documents of one length, counted over all rows, by that length.
    pub(super) fn by_length(&self) -> BTreeMap<usize, Vec<usize>> {
        let mut found = BTreeMap::<usize, Vec<usize>>::new();
        for tokens in self.ranges() {
            found.entry(tokens.len()).or_default().push(tokens.start);
        }
        found
    }
}
