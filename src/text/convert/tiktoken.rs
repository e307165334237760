//! Files of tiktoken: `tokenizer.model` of Llama 3 and GLM-4, `tiktoken.model`, `qwen.tiktoken`.
//!
//! A line has the bytes of a token, in base64, and its rank, which is its id too (`tiktoken/load.py`).

use std::collections::HashSet;

use tokenizers::{NormalizerWrapper, normalizers::NFC};

use super::{byte_level, ranks::MergeRanks, rules::Rules};
use crate::text::{added::Added, base64, error::BoxError};

/// The file of Qwen 1, whose rules are code in the repository of the model.
const QWEN: &str = "qwen.tiktoken";

/// Special tokens of that file: `<|extra_0|>` to `<|extra_204|>` follow these three (`tokenization_qwen.py`).
const QWEN_SPECIAL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

/// Ids behind the ranks that are filled with reserved tokens. Llama 3 has 256 of them.
const RESERVED_MAX: usize = 1 << 16;

/// A file that is not well-formed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
enum TiktokenError {
    #[error("line {line} is no token in base64 and its rank")]
    Line { line: usize },

    #[error("line {line} has the rank {rank} again")]
    RankTwice { line: usize, rank: u32 },

    #[error("no token has the rank {rank}, the file has {tokens} tokens")]
    RankMissing { rank: usize, tokens: usize },

    #[error(
        "`added_tokens_decoder` has the id {last}, the file has {ranks} tokens: at most {RESERVED_MAX} follow"
    )]
    Reserved { last: usize, ranks: usize },
}

/// Whether a file is one of tiktoken: its first line that is not empty reads as one.
pub(super) fn is_tiktoken(bytes: &[u8]) -> bool {
    let first = lines(bytes).find(|(_, line)| !line.is_empty());
    first.is_some_and(|(_, line)| parse(line).is_some())
}

/// The rules of a file, and the special tokens that follow its vocabulary.
pub(super) fn from_lines(
    file: &str,
    bytes: &[u8],
    added: &mut Added,
) -> Result<(Rules, Vec<String>), BoxError> {
    let ranks = MergeRanks::new(read(bytes)?)?;
    let nfc = || NormalizerWrapper::from(NFC);
    let (special, normalizer, pattern) = if file == QWEN {
        added.assume("eos_token", QWEN_SPECIAL[0]);
        let extra = (0..205).map(|number| format!("<|extra_{number}|>"));
        let special = QWEN_SPECIAL.map(str::to_owned).into_iter().chain(extra);
        (special.collect(), Some(nfc()), byte_level::QWEN2)
    } else {
        (behind(ranks.len(), added)?, None, byte_level::LLAMA3)
    };
    Ok((ranks.rules(&[], normalizer, pattern)?, special))
}

/// The tokens of a file. Their ranks are all numbers from 0 up to how many they are.
fn read(bytes: &[u8]) -> Result<Vec<Vec<u8>>, TiktokenError> {
    let mut tokens = Vec::new();
    for (number, line) in lines(bytes) {
        if !line.is_empty() {
            let (token, rank) = parse(line).ok_or(TiktokenError::Line { line: number })?;
            tokens.push((rank, number, token));
        }
    }
    tokens.sort_unstable();
    for (place, (rank, line, _)) in tokens.iter().enumerate() {
        if (*rank as usize) < place {
            let (line, rank) = (*line, *rank);
            return Err(TiktokenError::RankTwice { line, rank });
        }
        if *rank as usize > place {
            return Err(TiktokenError::RankMissing {
                rank: place,
                tokens: tokens.len(),
            });
        }
    }
    Ok(tokens.into_iter().map(|(_, _, token)| token).collect())
}

/// The tokens behind the ranks: those of `added_tokens_decoder` with reserved ones in its gaps, then the listed ones
/// (`TokenizersBackend._convert_from_tiktoken`).
fn behind(ranks: usize, added: &Added) -> Result<Vec<String>, TiktokenError> {
    let mut behind: Vec<String> = Vec::new();
    if let Some((last, _)) = added.by_id.last_key_value()
        && let last = *last as usize
        && last >= ranks
    {
        if last - ranks >= RESERVED_MAX {
            return Err(TiktokenError::Reserved { last, ranks });
        }
        behind.extend((ranks..=last).map(|id| {
            let token = u32::try_from(id).ok().and_then(|id| added.by_id.get(&id));
            let reserved = || format!("<|reserved_token_{id}|>");
            token.map_or_else(reserved, |token| token.content().to_owned())
        }));
    }
    let known: HashSet<String> = behind.iter().cloned().collect();
    let more = added.more.iter().flatten();
    behind.extend(
        more.map(|token| token.content().to_owned())
            .filter(|content| !known.contains(content)),
    );
    Ok(behind)
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
    use super::{TiktokenError, read};

    /// A rank that is missing moves the ids of all added tokens; one that is there twice gives text other ids.
    #[test]
    fn ranks_are_complete_or_refused_with_the_line() {
        let tokens = read(b"YQ== 1\n\nYg== 0\r\n").expect("two tokens");
        assert_eq!(tokens, [b"b", b"a"]);
        let cases: [(&[u8], TiktokenError); 5] = [
            (b"YQ== 0\nYg==", TiktokenError::Line { line: 2 }),
            (b"YQ= 0", TiktokenError::Line { line: 1 }),
            (b"YQ== 0\nYg== -1", TiktokenError::Line { line: 2 }),
            (
                b"YQ== 0\nYg== 0",
                TiktokenError::RankTwice { line: 2, rank: 0 },
            ),
            (
                b"YQ== 0\nYg== 4000000000",
                TiktokenError::RankMissing { rank: 1, tokens: 2 },
            ),
        ];
        for (file, expected) in cases {
            assert_eq!(read(file), Err(expected));
        }
    }
}
