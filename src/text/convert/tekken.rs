//! `tekken.json`: Mistral's own files.
//!
//! The special tokens come first, then the ranks (`integrations/mistral/tokenizer.py` in transformers, `MistralConverter`;
//! `tekken.py` in mistral-common).

use serde::Deserialize;

use super::{ranks::MergeRanks, rules::Rules};
use crate::{
    source::json,
    text::{base64, error::BoxError},
};

/// The special tokens of files that list none: those of the first models with such a file.
const OLDER: &str = "<unk> <s> </s> [INST] [/INST] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] [TOOL_RESULTS] [/TOOL_RESULTS] \
     [TOOL_CALLS] [IMG] <pad> [IMG_BREAK] [IMG_END] [PREFIX] [MIDDLE] [SUFFIX] [SYSTEM_PROMPT] [/SYSTEM_PROMPT] \
     [TOOL_CONTENT]";

/// More special tokens than this are a mistake: the files in use have 1000.
const SPECIAL_MAX: usize = 1 << 16;

/// A file that is not well-formed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
enum TekkenError {
    #[error("`vocab`: `token_bytes` of entry {entry} is not base64")]
    NotBase64 { entry: usize },

    #[error("`special_tokens`: the ranks are not the numbers from 0 to {last}")]
    SpecialRanks { last: usize },

    #[error(
        "`default_num_special_tokens` is {said}, {listed} are listed and at most {SPECIAL_MAX} are read"
    )]
    SpecialCount { said: usize, listed: usize },

    #[error("`default_vocab_size` is {said}, {special} of them are special tokens")]
    Size { said: usize, special: usize },
}

#[derive(Deserialize)]
struct Tekken {
    config: TekkenConfig,
    vocab: Vec<TekkenEntry>,
    special_tokens: Option<Vec<TekkenSpecial>>,
}

#[derive(Deserialize)]
struct TekkenConfig {
    pattern: String,
    default_vocab_size: Option<usize>,
    default_num_special_tokens: Option<usize>,
}

#[derive(Deserialize)]
struct TekkenEntry {
    token_bytes: String,
}

#[derive(Deserialize)]
struct TekkenSpecial {
    rank: usize,
    token_str: String,
}

/// The rules of a file, and its special tokens.
pub(super) fn from_json(bytes: &[u8]) -> Result<(Rules, Vec<String>), BoxError> {
    let tekken: Tekken = json::read(bytes)?;
    let special = special(&tekken)?;
    // Entries beyond the size of the model are padding of the file.
    let count = match tekken.config.default_vocab_size {
        Some(said) => said.checked_sub(special.len()).ok_or(TekkenError::Size {
            said,
            special: special.len(),
        })?,
        None => tekken.vocab.len(),
    };
    let tokens = tekken.vocab.iter().take(count).enumerate();
    let tokens = tokens.map(|(entry, token)| {
        base64::decode(token.token_bytes.as_bytes()).ok_or(TekkenError::NotBase64 { entry })
    });
    let ranks = MergeRanks::new(tokens.collect::<Result<_, _>>()?)?;
    let rules = ranks.rules(&special, None, &tekken.config.pattern)?;
    Ok((rules, special))
}

fn special(tekken: &Tekken) -> Result<Vec<String>, TekkenError> {
    let mut special: Vec<String> = match &tekken.special_tokens {
        Some(listed) => {
            let mut listed: Vec<&TekkenSpecial> = listed.iter().collect();
            listed.sort_by_key(|token| token.rank);
            if listed
                .iter()
                .enumerate()
                .any(|(place, token)| token.rank != place)
            {
                let last = listed.len().saturating_sub(1);
                return Err(TekkenError::SpecialRanks { last });
            }
            listed
                .into_iter()
                .map(|token| token.token_str.clone())
                .collect()
        }
        None => OLDER.split(' ').map(str::to_owned).collect(),
    };
    let listed = special.len();
    let said = tekken.config.default_num_special_tokens.unwrap_or(listed);
    if said > SPECIAL_MAX || said < listed {
        return Err(TekkenError::SpecialCount { said, listed });
    }
    special.extend((listed..said).map(|id| format!("<SPECIAL_{id}>")));
    Ok(special)
}
