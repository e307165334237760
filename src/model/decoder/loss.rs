//! The loss that a model is trained on.
//!
//! Letters: `b` rows, `t` tokens, `f` features.

use core::num::NonZero;

use burn::tensor::{DType, Int, Tensor, TensorData};

use super::{
    again,
    forward::CausalLm,
    tail::{Tail, cross_entropy},
};
use crate::{
    collective::CollectiveError,
    model::layers::{
        Documents,
        device::{ids_on, on},
    },
};

/// How a loss is computed.
#[derive(Debug, Clone)]
pub struct LossConfig {
    /// Which tokens are one document.
    pub documents: Documents,
    /// The graph keeps what goes into each layer and nothing of what is inside: the backward pass computes each layer once more. It
    /// changes no gradient. A layer that lends its keys to later ones (Gemma 3n and 4) is kept as usual.
    pub recompute: bool,
    /// Rows of logits that exist at a time; 256 unless said.
    pub rows: NonZero<usize>,
}

/// Tokens that a model cannot be run on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PassError {
    /// Not one of something for each token.
    #[error(
        "{found} {what} were given for {rows} rows of {tokens} tokens; give one for each token"
    )]
    Count {
        /// Ids or labels.
        what: &'static str,
        /// How many were given.
        found: usize,
        /// `b`.
        rows: usize,
        /// `t`.
        tokens: usize,
    },
    /// A token that the vocabulary has not.
    #[error(
        "row {row}, token {token}: the {what} is {id}, and the vocabulary has {vocabulary} tokens; take the tokenizer of this model"
    )]
    Vocabulary {
        /// Id or label.
        what: &'static str,
        /// The row, from 0.
        row: usize,
        /// The token, from 0.
        token: usize,
        /// The number of the token in the vocabulary.
        id: u32,
        /// Tokens in the vocabulary.
        vocabulary: usize,
    },
    /// A document that is longer than the model's context.
    #[error(
        "row {row} has a document of {tokens} tokens, and the model has {positions} positions; cut the document, or make rows shorter"
    )]
    Positions {
        /// The row, from 0.
        row: usize,
        /// Tokens of the document.
        tokens: usize,
        /// Tokens in a context at most.
        positions: usize,
    },
    /// The other ranks, where a model is divided among several.
    #[error(transparent)]
    Ranks(#[from] CollectiveError),
    /// Nothing to train on.
    #[error(
        "no token of {rows} rows of {tokens} has a label, so that there is no loss; leave these rows out"
    )]
    NoLabel {
        /// `b`.
        rows: usize,
        /// `t`.
        tokens: usize,
    },
}

impl LossConfig {
    /// Nothing is computed twice, and 256 rows of logits exist at a time.
    pub const fn new(documents: Documents) -> Self {
        Self {
            documents,
            recompute: false,
            rows: NonZero::new(256).expect("it is not 0"),
        }
    }
}

impl CausalLm {
    /// The sum over all labelled tokens of minus the logarithm of the probability that the model gives to the label: `[1]` in `f32`. `ids`
    /// and `labels` are `[b, t]`, row by row; the label of a token is the one that should follow it, `None` where nothing is asked.
    /// The mean over several batches is the sum of their losses, divided by the number of all their labels.
    ///
    /// Rows without a label are dropped before the head, and at most [`LossConfig::rows`] rows of logits exist at a time.
    /// Gradients flow to all that is trained, head and embedding included. Where nothing is trained, as in `model.valid()`, there is
    /// no graph, and dropout is off.
    ///
    /// # Errors
    ///
    /// [`PassError`].
    pub fn loss(
        &self,
        ids: &[u32],
        labels: &[Option<u32>],
        config: &LossConfig,
    ) -> Result<Tensor<1>, PassError> {
        let LossConfig {
            documents,
            recompute,
            rows: at_once,
        } = config;
        let [rows, tokens] = documents.shape();
        self.check("label", labels, documents, |label| *label)?;
        let labelled = labels.iter().enumerate();
        let labelled = labelled.filter_map(|(place, label)| Some((place as i32, (*label)?)));
        let (places, labels): (Vec<i32>, Vec<u32>) = labelled.unzip();
        if labels.is_empty() {
            return Err(PassError::NoLabel { rows, tokens });
        }

        let x = self.hidden(ids, documents, *recompute)?;
        let [_, _, f] = x.dims();
        let places = TensorData::new(places, [labels.len()]);
        let places = Tensor::from_data(places, (&x.device().without_autodiff(), DType::I32));
        let x = x.reshape([rows * tokens, f]).select(0, places);
        let x = on(x, &self.norm.device());
        let head = self.head.as_ref();
        let head = head.map_or(&self.embedding.table, |head| &head.weight);
        // A norm on another device than the head is no part of what is computed chunk by chunk.
        let (x, norm) = match head.device() {
            device if device == self.norm.device() => (x, Some(self.norm.clone())),
            device => (on(self.norm.forward(x), &device), None),
        };
        let tail = Tail {
            norm,
            head: self.head.clone(),
            tied: self.head.is_none().then(|| self.embedding.clone()),
            spec: self.spec.head.clone(),
        };
        let held = head.hold();
        let loss = tail.loss(x, &labels, *at_once);
        drop(held);
        self.check_ranks()?;
        Ok(loss)
    }

    /// For training code that has tensors, such as a step of Burn's `Learner`: the mean over all tokens of `ids` `[b, t]` but the first of
    /// each row of minus the logarithm of the probability that the model gives to the token, `[1]` in `f32`; the logits `[b, t - 1, v]`;
    /// and the tokens, `[b, t - 1]`, on the device of the head. [`loss`](Self::loss) needs less memory, and knows documents and labels.
    ///
    /// # Panics
    ///
    /// When rows have fewer than two tokens.
    pub fn next_tokens(&self, ids: Tensor<2, Int>) -> (Tensor<1>, Tensor<3>, Tensor<2, Int>) {
        // Burn refuses tokens that meet the logits from a device with another strategy of checkpointing.
        let ids = ids.without_autodiff();
        let [rows, tokens] = ids.dims();
        assert!(
            tokens > 1,
            "a row of {tokens} tokens has none that follows another"
        );
        let next = ids.clone().narrow(1, 1, tokens - 1);
        let logits = self.forward(ids.narrow(1, 0, tokens - 1));
        let next = ids_on(next, &logits.device().without_autodiff());
        let count = rows * (tokens - 1);
        let flat = logits.clone().cast(DType::F32);
        let loss = cross_entropy(
            flat.reshape([count, self.spec.vocabulary]),
            next.clone().reshape([count, 1]),
        );
        (loss / count as f64, logits, next)
    }

    /// What comes out of the last layer, `[b, t, f]`, for `ids` `[b, t]`, row by row; `recompute` is that of [`LossConfig`].
    ///
    /// # Errors
    ///
    /// [`PassError`].
    pub fn hidden(
        &self,
        ids: &[u32],
        documents: &Documents,
        recompute: bool,
    ) -> Result<Tensor<3>, PassError> {
        let shape @ [_, tokens] = documents.shape();
        self.check("id", ids, documents, |id| Some(*id))?;
        let positions = self.spec.positions;
        let mut ranges = documents.ranges();
        if let Some(long) = ranges.find(|range| range.len() > positions) {
            return Err(PassError::Positions {
                row: long.start / tokens,
                tokens: long.len(),
                positions,
            });
        }

        let ids: Vec<i32> = ids.iter().map(|id| id.cast_signed()).collect();
        let device = self.device();
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, shape), (&device, DType::I32));
        let (mut x, mut passage) = self.enter_documents(ids, documents);
        for block in &self.blocks {
            x = match recompute {
                true => again::forward(block, x, &mut passage),
                false => again::once(block, x, &mut passage),
            };
        }
        Ok(x)
    }

    /// Whether there is one of `all` for each token, and those that name a token name one of the vocabulary.
    fn check<T>(
        &self,
        what: &'static str,
        all: &[T],
        documents: &Documents,
        id: impl Fn(&T) -> Option<u32>,
    ) -> Result<(), PassError> {
        let [rows, tokens] = documents.shape();
        if rows * tokens != all.len() {
            let what = if what == "id" { "ids" } else { "labels" };
            return Err(PassError::Count {
                what,
                found: all.len(),
                rows,
                tokens,
            });
        }
        let vocabulary = self.spec.vocabulary;
        let mut named = all.iter().map(id).enumerate();
        let unknown = named.find_map(|(place, id)| {
            let id = id.filter(|id| *id as usize >= vocabulary)?;
            Some(PassError::Vocabulary {
                what,
                row: place / tokens,
                token: place % tokens,
                id,
                vocabulary,
            })
        });
        unknown.map_or(Ok(()), Err)
    }
}
