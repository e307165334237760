//! Ranks of tiktoken: `tokenizer.model` of Llama 3 and GLM-4, `tiktoken.model`, `qwen.tiktoken`.
//!
//! A line has the bytes of a token, in base64, and its rank, which is its id too (`tiktoken/load.py`). Two neighbours
//! merge when together they are a token, the one of the smallest rank first, so that the merges follow from the ranks
//! (`TikTokenConverter` in transformers' `convert_slow_tokenizer.py`).

use std::collections::{HashMap, HashSet};

use tokenizers::{
    AddedToken, Tokenizer,
    models::bpe::{Merges, Vocab},
    normalizers::NFC,
    pre_tokenizers::byte_level::ByteLevel,
};

use super::{byte_level, pairs};
use crate::text::{
    added::Added,
    alphabet::letter_of,
    base64,
    error::{BoxError, TokenizerError},
    files::TokenizerFiles,
};

/// The file of Qwen 1, whose rules are code of its own repository.
const QWEN: &str = "qwen.tiktoken";

/// Special tokens of that file: `<|extra_0|>` to `<|extra_204|>` follow these three (`tokenization_qwen.py`).
const QWEN_SPECIAL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

/// Ids behind the ranks that are filled with reserved tokens. Llama 3 has 256 of them.
const RESERVED_MAX: usize = 1 << 16;

/// Bytes of the longest token: 128 in those in use. The work on a token grows with the square of its length.
const TOKEN_BYTES_MAX: usize = 1024;

/// A file of ranks that is not well-formed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum RanksError {
    #[error("line {line} is no token in base64 and its rank")]
    Line { line: usize },

    #[error("line {line}: the token has {len} bytes, from 1 to {TOKEN_BYTES_MAX} are read")]
    Len { line: usize, len: usize },

    #[error("line {line} has a token that an earlier line has")]
    Twice { line: usize },

    #[error("line {line} has the rank {rank} again")]
    RankTwice { line: usize, rank: u32 },

    #[error("no token has the rank {rank}, the file has {tokens} tokens")]
    RankMissing { rank: usize, tokens: usize },

    #[error("the byte {byte:#04x} is no token: text that has it would have no ids")]
    ByteMissing { byte: u8 },
}

/// Tokens by their bytes.
pub(super) struct Ranks(HashMap<Vec<u8>, u32>);

impl Ranks {
    /// Whether a file is one of ranks: its first line that is not empty reads as one.
    pub(super) fn are_in(bytes: &[u8]) -> bool {
        let first = lines(bytes).find(|(_, line)| !line.is_empty());
        first.is_some_and(|(_, line)| parse(line).is_some())
    }

    /// Reads a file. Ranks are all numbers from 0 up to the number of tokens, and every byte is a token.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, RanksError> {
        let mut ranks = HashMap::new();
        let mut seen = Vec::new();
        for (number, line) in lines(bytes) {
            if line.is_empty() {
                continue;
            }
            let (token, rank) = parse(line).ok_or(RanksError::Line { line: number })?;
            let len = token.len();
            if !(1..=TOKEN_BYTES_MAX).contains(&len) {
                return Err(RanksError::Len { line: number, len });
            }
            if ranks.insert(token, rank).is_some() {
                return Err(RanksError::Twice { line: number });
            }
            seen.push((rank, number));
        }
        seen.sort_unstable();
        for (place, (rank, line)) in seen.iter().copied().enumerate() {
            if (rank as usize) < place {
                return Err(RanksError::RankTwice { line, rank });
            }
            if rank as usize > place {
                return Err(RanksError::RankMissing {
                    rank: place,
                    tokens: seen.len(),
                });
            }
        }
        match (0..=u8::MAX).find(|byte| !ranks.contains_key(&[*byte][..])) {
            Some(byte) => Err(RanksError::ByteMissing { byte }),
            None => Ok(Self(ranks)),
        }
    }

    /// How many tokens there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The tokens in letters, and the merges: those of the smallest rank first, of one token the parts of smaller
    /// ranks.
    pub(super) fn into_vocab_and_merges(self) -> (Vocab, Merges) {
        let mut cuts: Vec<(u32, u32, u32)> = Vec::new();
        let mut texts = vec![String::new(); self.len()];
        for (token, rank) in &self.0 {
            texts[*rank as usize] = token.iter().copied().map(letter_of).collect();
            for at in 1..token.len() {
                let (left, right) = token.split_at(at);
                if let (Some(left), Some(right)) = (self.0.get(left), self.0.get(right)) {
                    cuts.push((*rank, *left, *right));
                }
            }
        }
        cuts.sort_unstable();
        let text = |rank: u32| texts[rank as usize].clone();
        let merges = cuts
            .iter()
            .map(|(_, left, right)| (text(*left), text(*right)));
        let merges = merges.collect();
        let vocab = texts.into_iter().zip(0..).collect();
        (vocab, merges)
    }
}

/// The tokenizer of a file of ranks.
pub(super) fn from_ranks(
    files: &TokenizerFiles<'_>,
    file: &str,
    ranks: Ranks,
    added: &mut Added,
) -> Result<Tokenizer, TokenizerError> {
    let is_qwen = file == QWEN;
    let special = special(ranks.len(), is_qwen, added);
    let whole = special.and_then(|special| tokenizer(ranks, special, is_qwen));
    if is_qwen {
        added.assume("eos_token", QWEN_SPECIAL[0]);
    }
    whole.map_err(|error| files.invalid(file, error))
}

fn tokenizer(ranks: Ranks, special: Vec<String>, is_qwen: bool) -> Result<Tokenizer, BoxError> {
    let (vocab, merges) = ranks.into_vocab_and_merges();
    // A text that is a token is that token, whether pairs lead to it or not: so tiktoken does.
    let model = pairs::model(vocab, merges, |builder| builder.ignore_merges(true))?;
    let mut tokenizer = Tokenizer::new(model);
    if is_qwen {
        tokenizer.with_normalizer(Some(NFC))?;
    }
    let pattern = if is_qwen {
        byte_level::QWEN2
    } else {
        byte_level::LLAMA3
    };
    tokenizer.with_pre_tokenizer(Some(byte_level::cut_by(pattern, false)?));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    let special = special
        .into_iter()
        .map(|token| AddedToken::from(token, true));
    tokenizer.add_tokens(special)?;
    Ok(tokenizer)
}

/// The tokens behind the ranks: those of `added_tokens_decoder` with reserved ones in its gaps, then the listed ones
/// (`TokenizersBackend._convert_from_tiktoken`).
fn special(ranks: usize, is_qwen: bool, added: &Added) -> Result<Vec<String>, BoxError> {
    let mut special: Vec<String> = Vec::new();
    if is_qwen {
        special.extend(QWEN_SPECIAL.map(str::to_owned));
        special.extend((0..205).map(|number| format!("<|extra_{number}|>")));
    } else if let Some((last, _)) = added.by_id.last_key_value()
        && let last = *last as usize
        && last >= ranks
    {
        if last - ranks >= RESERVED_MAX {
            return Err(format!(
                "`added_tokens_decoder` has the id {last}, the file has {ranks} tokens: at most {RESERVED_MAX} follow"
            )
            .into());
        }
        special.extend((ranks..=last).map(|id| {
            let token = u32::try_from(id).ok().and_then(|id| added.by_id.get(&id));
            let reserved = || format!("<|reserved_token_{id}|>");
            token.map_or_else(reserved, |token| token.content().to_owned())
        }));
    }
    let known: HashSet<String> = special.iter().cloned().collect();
    let more = added.more.iter().flatten();
    special.extend(
        more.map(|token| token.content().to_owned())
            .filter(|content| !known.contains(content)),
    );
    Ok(special)
}

/// Lines with their numbers, from 1.
fn lines(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    (1..).zip(bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii))
}

fn parse(line: &[u8]) -> Option<(Vec<u8>, u32)> {
    let space = line.iter().position(u8::is_ascii_whitespace)?;
    let (token, rank) = line.split_at(space);
    let rank = std::str::from_utf8(rank.trim_ascii()).ok()?;
    Some((base64::decode(token)?, rank.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::{Ranks, RanksError};

    type Change = dyn Fn(&mut Vec<String>);

    fn file(change: &Change) -> Vec<u8> {
        const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let of = |bits: u8| char::from(LETTERS[usize::from(bits)]);
        let mut lines: Vec<String> = (0..=u8::MAX)
            .map(|byte| format!("{}{}== {byte}", of(byte >> 2), of((byte & 3) << 4)))
            .collect();
        change(&mut lines);
        lines.join("\n").into_bytes()
    }

    /// A rank that is missing moves the ids of all added tokens; one that is there twice, or a byte without a token,
    /// gives text other ids or none.
    #[test]
    fn ranks_are_complete_or_refused_with_the_line() {
        let refused = |change: &Change| Ranks::parse(&file(change)).err();
        assert_eq!(refused(&|_| {}), None);
        assert_eq!(refused(&|lines| lines.push("YWI= 256".to_owned())), None);
        let cases: [(&Change, RanksError); 7] = [
            (&|lines| lines[4].push('x'), RanksError::Line { line: 5 }),
            (
                &|lines| lines[4] = "AAA".to_owned(),
                RanksError::Line { line: 5 },
            ),
            (
                &|lines| lines.push(format!("{} 256", "YWFh".repeat(342))),
                RanksError::Len {
                    line: 257,
                    len: 1026,
                },
            ),
            (
                &|lines| lines.push("YQ== 256".to_owned()),
                RanksError::Twice { line: 257 },
            ),
            (
                &|lines| lines.push("YWI= 255".to_owned()),
                RanksError::RankTwice {
                    line: 257,
                    rank: 255,
                },
            ),
            (
                &|lines| lines.push("YWI= 4000000000".to_owned()),
                RanksError::RankMissing {
                    rank: 256,
                    tokens: 257,
                },
            ),
            (
                &|lines| drop(lines.pop()),
                RanksError::ByteMissing { byte: 255 },
            ),
        ];
        for (change, expected) in cases {
            assert_eq!(refused(change), Some(expected));
        }
    }
}
