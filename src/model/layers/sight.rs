//! What the queries of a pass see.
//!
//! Letters: `b` rows, `t` queries, `s` keys.

use core::ops::Range;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use burn::tensor::{Bool, DType, Device, Int, Tensor, TensorData};
use serde::Serialize;

use super::documents::Documents;

/// The tokens that a query sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Sees {
    /// All before it, and itself.
    All,
    /// This number of tokens, itself included.
    Window(usize),
    /// Those of its own chunk of this number of tokens (Llama 4).
    Chunk(usize),
}

/// What queries may see, the queries, and the keys.
type Asked = (Sees, Range<usize>, Range<usize>);

/// The tokens that the queries of a pass see; all layers of the pass share it.
#[derive(Debug, Clone, Default)]
pub struct Sight {
    /// `None` where each row is one document.
    documents: Option<Documents>,
    /// What is hidden from queries that all go through attention at once. Layers mostly see alike.
    hidden: Arc<Mutex<HashMap<Asked, Tensor<3, Bool>>>>,
}

impl Sees {
    /// The first token that the query `token` sees, of a document that begins at `start`.
    pub(super) const fn first(self, start: usize, token: usize) -> usize {
        let position = token - start;
        start
            + match self {
                Self::All => 0,
                Self::Window(window) => (position + 1).saturating_sub(window),
                Self::Chunk(chunk) => position / chunk * chunk,
            }
    }
}

impl Sight {
    /// What is seen in these documents.
    pub fn new(documents: &Documents) -> Self {
        Self {
            documents: (!documents.is_whole()).then(|| documents.clone()),
            ..Self::default()
        }
    }

    /// `None` where each row is one document.
    pub(super) const fn documents(&self) -> Option<&Documents> {
        self.documents.as_ref()
    }

    /// The first token that any of `queries` sees, in any row.
    pub(super) fn first(&self, sees: Sees, queries: &Range<usize>) -> usize {
        match &self.documents {
            None => sees.first(0, queries.start),
            Some(documents) => {
                let [rows, _] = documents.shape();
                let first = |row| sees.first(documents.start(row, queries.start), queries.start);
                (0..rows).map(first).min().unwrap_or(0)
            }
        }
    }

    /// The first token that each of `queries` sees: the same in all rows `[1, t]`, or another in each `[b, t]`.
    #[cfg(feature = "cpu")]
    pub(super) fn firsts(&self, sees: Sees, queries: Range<usize>) -> Vec<usize> {
        match &self.documents {
            None => queries.map(|query| sees.first(0, query)).collect(),
            Some(documents) => {
                let [rows, _] = documents.shape();
                let of_row = |row| {
                    let first = move |query| sees.first(documents.start(row, query), query);
                    queries.clone().map(first)
                };
                (0..rows).flat_map(of_row).collect()
            }
        }
    }

    /// Positions of `tokens` in their documents: those of all rows `[1, t]`, or those of each `[b, t]`.
    pub(super) fn positions(&self, tokens: Range<usize>) -> Vec<Vec<usize>> {
        match &self.documents {
            None => vec![tokens.collect()],
            Some(documents) => {
                let [rows, _] = documents.shape();
                let of_row = |row| {
                    let tokens = tokens.clone();
                    let position = |token| token - documents.start(row, token);
                    tokens.map(position).collect()
                };
                (0..rows).map(of_row).collect()
            }
        }
    }

    /// `[1 or b, t, s]`, true where one of the `t` queries does not see one of the `s` keys: it is later, of another document, or
    /// has left the window or the chunk. `None` where one query sees all it is given, as in every step after the prompt. `all`: these
    /// are all queries of the pass, so that other layers ask for the same.
    pub(super) fn hidden(
        &self,
        sees: Sees,
        queries: Range<usize>,
        keys: Range<usize>,
        all: bool,
        device: &Device,
    ) -> Option<Tensor<3, Bool>> {
        if queries.len() == 1 && self.documents.is_none() {
            return None;
        }
        let device = device.clone().without_autodiff();
        if !all {
            return Some(self.make_hidden(sees, queries, keys, &device));
        }
        let mut hidden = self.hidden.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = (sees, queries.clone(), keys.clone());
        let known = hidden.get(&asked).filter(|known| known.device() == device);
        if let Some(known) = known {
            return Some(known.clone());
        }
        let made = self.make_hidden(sees, queries, keys, &device);
        hidden.insert(asked, made.clone());
        Some(made)
    }

    fn make_hidden(
        &self,
        sees: Sees,
        queries: Range<usize>,
        keys: Range<usize>,
        device: &Device,
    ) -> Tensor<3, Bool> {
        let (t, s) = (queries.len(), keys.len());
        let place = |numbers: Vec<i32>, shape| -> Tensor<3, Int> {
            Tensor::from_data(TensorData::new(numbers, shape), (device, DType::I32))
        };
        let key = place(keys.map(|key| key as i32).collect(), [1, 1, s]);
        let query = place(
            queries.clone().map(|query| query as i32).collect(),
            [1, t, 1],
        );
        let later = (query - key.clone()).lower_elem(0);
        if self.documents.is_none() && sees == Sees::All {
            return later;
        }
        let rows = self
            .documents
            .as_ref()
            .map_or(1, |documents| documents.shape()[0]);
        let first = |row| {
            let start = move |token| {
                self.documents
                    .as_ref()
                    .map_or(0, |all| all.start(row, token))
            };
            queries
                .clone()
                .map(move |query| sees.first(start(query), query) as i32)
        };
        let first = place((0..rows).flat_map(first).collect(), [rows, t, 1]);
        let before = (first - key).greater_elem(0);
        before.bool_or(later.expand([rows, t, s]))
    }
}
