//! Tokens of bytes in the order in which they merge.
//!
//! Two neighbours merge when together they are a token, the one of the smallest rank first. So the merges follow from the
//! ranks (`TikTokenConverter` in transformers' `convert_slow_tokenizer.py`).

use std::collections::HashMap;

use tokenizers::{
    DecoderWrapper, NormalizerWrapper,
    models::bpe::{Merges, Vocab},
    pre_tokenizers::byte_level::ByteLevel,
};

use super::{byte_level::cut_by, pairs, rules::Rules};
use crate::text::{alphabet::letter_of, error::BoxError};

/// Bytes of the longest token: 128 in those in use. The work on a token grows with the square of its length.
const TOKEN_BYTES_MAX: usize = 512;

/// Tokens that make no vocabulary.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum RanksError {
    #[error("the token of rank {rank} has {len} bytes, from 1 to {TOKEN_BYTES_MAX} are read")]
    Len { rank: usize, len: usize },

    #[error("the token of rank {rank} has the rank {other} too")]
    Twice { rank: usize, other: usize },

    #[error("the byte {byte:#04x} is no token: text that has it would have no ids")]
    ByteMissing { byte: u8 },
}

/// Tokens by rank.
#[derive(Debug)]
pub(super) struct MergeRanks {
    tokens: Vec<Vec<u8>>,
}

impl MergeRanks {
    /// Checks tokens, the first of which has the rank 0.
    pub(super) fn new(tokens: Vec<Vec<u8>>) -> Result<Self, RanksError> {
        let mut seen = HashMap::with_capacity(tokens.len());
        for (rank, token) in tokens.iter().enumerate() {
            let len = token.len();
            if !(1..=TOKEN_BYTES_MAX).contains(&len) {
                return Err(RanksError::Len { rank, len });
            }
            if let Some(other) = seen.insert(token.as_slice(), rank) {
                return Err(RanksError::Twice { rank, other });
            }
        }
        match (0..=u8::MAX).find(|byte| !seen.contains_key(&[*byte][..])) {
            Some(byte) => Err(RanksError::ByteMissing { byte }),
            None => Ok(Self { tokens }),
        }
    }

    /// How many tokens there are.
    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// The rules that cut text by a pattern and merge bytes. The token of rank 0 has the id after those `before` it.
    pub(super) fn rules(
        &self,
        before: &[String],
        normalizer: Option<NormalizerWrapper>,
        pattern: &str,
    ) -> Result<Rules, BoxError> {
        let texts: Vec<String> = self
            .tokens
            .iter()
            .map(|token| token.iter().copied().map(letter_of).collect())
            .collect();
        let merges = self.merges(&texts);
        // A token before the ranks that one of them spells too is the one before.
        let vocab: Vocab = (before.len() as u32..)
            .zip(texts)
            .map(|(id, token)| (token, id))
            .collect();
        let vocab = vocab
            .into_iter()
            .chain(before.iter().cloned().zip(0..))
            .collect();
        // A text that is a token is that token, whether pairs lead to it or not: so tiktoken does.
        let model = pairs::model(vocab, merges, |builder| builder.ignore_merges(true))?;
        Ok(Rules {
            model: model.into(),
            normalizer,
            pre_tokenizer: Some(cut_by(pattern, false)?),
            decoder: Some(DecoderWrapper::from(ByteLevel::default())),
        })
    }

    /// The merges: those to the smallest rank first, of one token those of the smaller ranks.
    fn merges(&self, texts: &[String]) -> Merges {
        let ranks: HashMap<&[u8], usize> = self.tokens.iter().map(Vec::as_slice).zip(0..).collect();
        let mut merges = Merges::new();
        for token in &self.tokens {
            let cuts = (1..token.len()).map(|at| token.split_at(at));
            let mut cuts: Vec<(usize, usize)> = cuts
                .filter_map(|(left, right)| ranks.get(left).copied().zip(ranks.get(right).copied()))
                .collect();
            cuts.sort_unstable();
            let text = |rank: usize| texts[rank].clone();
            merges.extend(
                cuts.into_iter()
                    .map(|(left, right)| (text(left), text(right))),
            );
        }
        merges
    }
}

#[cfg(test)]
mod tests {
    use super::{MergeRanks, RanksError};

    fn bytes() -> Vec<Vec<u8>> {
        (0..=u8::MAX).map(|byte| vec![byte]).collect()
    }

    /// A byte without a token is text without ids; a token with two ranks has one id that no text gives.
    #[test]
    fn tokens_that_leave_text_without_ids_are_refused() {
        let refused = |more: &[&[u8]]| {
            let more = more.iter().map(|token| token.to_vec());
            MergeRanks::new(bytes().into_iter().chain(more).collect()).err()
        };
        assert_eq!(refused(&[b"ab"]), None);
        let len = |len| Some(RanksError::Len { rank: 256, len });
        assert_eq!(refused(&[b""]), len(0));
        assert_eq!(refused(&[&[0; 513]]), len(513));
        let twice = RanksError::Twice {
            rank: 257,
            other: 97,
        };
        assert_eq!(refused(&[b"ab", b"a"]), Some(twice));
        let missing = MergeRanks::new(bytes().split_off(1)).err();
        assert_eq!(missing, Some(RanksError::ByteMissing { byte: 0 }));
    }
}
