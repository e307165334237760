//! Byte pairs: the merges behind a vocabulary, and the model made of both.

use tokenizers::models::bpe::{BPE, BpeBuilder, Merges, Vocab};

/// Ids above this are no ids of a vocabulary: the largest ones in use have 262144 tokens.
const ID_MAX: u32 = 1 << 24;

/// A vocabulary or merges that make no model.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(in crate::text) enum PairsError {
    #[error("the tokens {one:?} and {other:?} both have the id {id}")]
    Twice { id: u32, one: String, other: String },

    #[error("the id of {token:?} is {id}, at most {ID_MAX} is read")]
    Id { token: String, id: u64 },

    #[error("merge {merge} is of {left:?} and {right:?}, the vocabulary has no {lacks:?}")]
    Unknown {
        merge: usize,
        left: String,
        right: String,
        lacks: String,
    },
}

/// Refuses ids that two tokens share and ids that are none.
pub(super) fn check_ids(vocab: &Vocab) -> Result<(), PairsError> {
    let mut seen = std::collections::HashMap::with_capacity(vocab.len());
    for (token, id) in vocab {
        check_id(token, (*id).into())?;
        if let Some(other) = seen.insert(*id, token) {
            let [one, other] = if token < other {
                [token, other]
            } else {
                [other, token]
            };
            return Err(PairsError::Twice {
                id: *id,
                one: one.clone(),
                other: other.clone(),
            });
        }
    }
    Ok(())
}

/// An id of a vocabulary.
pub(in crate::text) fn check_id(token: &str, id: u64) -> Result<u32, PairsError> {
    u32::try_from(id)
        .ok()
        .filter(|id| *id <= ID_MAX)
        .ok_or_else(|| PairsError::Id {
            token: token.to_owned(),
            id,
        })
}

/// Refuses merges of tokens that the vocabulary lacks: the library's builder panics at some of them. `prefix` begins every
/// token that is inside a word, and is left out when it merges.
pub(in crate::text) fn check_merges<'a>(
    merges: impl Iterator<Item = (&'a str, &'a str)>,
    has: impl Fn(&str) -> bool,
    prefix: &str,
) -> Result<(), PairsError> {
    let mut whole = String::new();
    for (merge, (left, right)) in merges.enumerate() {
        whole.clear();
        whole.push_str(left);
        // A right half that is shorter than the prefix cannot have it.
        whole.push_str(right.get(prefix.len()..).unwrap_or(prefix));
        if let Some(lacks) = [left, right, &whole].into_iter().find(|token| !has(token)) {
            return Err(PairsError::Unknown {
                merge,
                left: left.to_owned(),
                right: right.to_owned(),
                lacks: lacks.to_owned(),
            });
        }
    }
    Ok(())
}

/// The halves of merges.
pub(super) fn halves(merges: &Merges) -> impl Iterator<Item = (&str, &str)> {
    let merges = merges.iter();
    merges.map(|(left, right)| (left.as_str(), right.as_str()))
}

/// The merges of a vocabulary whose ids are in the order of merging: each way to cut a token in two tokens, the
/// shortest left part first (`generate_merges` in transformers' `tokenization_utils_base.py`).
pub(super) fn merges_by_id(vocab: &Vocab) -> Merges {
    let mut tokens: Vec<(&String, &u32)> = vocab.iter().collect();
    tokens.sort_unstable_by_key(|(_, id)| **id);
    let mut merges = Merges::new();
    for (token, _) in tokens {
        let cuts = token
            .char_indices()
            .skip(1)
            .map(|(at, _)| token.split_at(at));
        merges.extend(
            cuts.filter(|(left, right)| vocab.contains_key(*left) && vocab.contains_key(*right))
                .map(|(left, right)| (left.to_owned(), right.to_owned())),
        );
    }
    merges
}

/// The model of a vocabulary and merges that were checked.
pub(super) fn model(
    vocab: Vocab,
    merges: Merges,
    options: impl FnOnce(BpeBuilder) -> BpeBuilder,
) -> Result<BPE, tokenizers::Error> {
    options(BPE::builder().vocab_and_merges(vocab, merges)).build()
}
