//! `tokenizer.json`, checked where the library that reads it would panic instead of giving an error.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

use super::{
    convert::{check_charsmap, check_id, check_merges},
    error::BoxError,
};

/// Reads the file.
pub(super) fn read(bytes: &[u8]) -> Result<tokenizers::Tokenizer, BoxError> {
    check(bytes)?;
    tokenizers::Tokenizer::from_bytes(bytes)
}

#[derive(Deserialize)]
struct TokenizerJson {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    added_tokens: Vec<Id>,
}

#[derive(Deserialize)]
struct Id {
    id: u64,
    content: String,
}

/// The file where its model merges pairs. Other models have another `vocab` or no `merges`.
#[derive(Deserialize)]
struct OfPairs {
    model: BytePairs,
}

#[derive(Deserialize)]
struct BytePairs {
    vocab: HashMap<String, u64>,
    merges: Vec<Merge>,
    continuing_subword_prefix: Option<String>,
}

/// A merge is written in one of two ways.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Line(String),
    Halves(String, String),
}

fn check(bytes: &[u8]) -> Result<(), BoxError> {
    // What does not parse here is refused by the library, in its words.
    if let Ok(json) = serde_json::from_slice::<TokenizerJson>(bytes) {
        for token in &json.added_tokens {
            check_id(&token.content, token.id)?;
        }
        check_normalizer(&json.normalizer)?;
    }
    match serde_json::from_slice::<OfPairs>(bytes) {
        Ok(of_pairs) => check_pairs(&of_pairs.model),
        Err(_) => Ok(()),
    }
}

fn check_normalizer(normalizer: &Value) -> Result<(), BoxError> {
    let steps = normalizer["normalizers"].as_array();
    for step in steps.into_iter().flatten() {
        check_normalizer(step)?;
    }
    match normalizer["precompiled_charsmap"].as_str() {
        Some(map) => {
            let map = super::base64::decode(map.as_bytes())
                .ok_or("`precompiled_charsmap` is not base64")?;
            Ok(check_charsmap(&map)?)
        }
        None => Ok(()),
    }
}

fn check_pairs(model: &BytePairs) -> Result<(), BoxError> {
    for (token, id) in &model.vocab {
        check_id(token, *id)?;
    }
    let prefix = model.continuing_subword_prefix.as_deref();
    // A line that is no merge is refused by the library.
    let merges = model.merges.iter().filter_map(|merge| match merge {
        Merge::Halves(left, right) => Some((left.as_str(), right.as_str())),
        Merge::Line(line) => line.split_once(' '),
    });
    let has = |token: &str| model.vocab.contains_key(token);
    Ok(check_merges(merges, has, prefix.unwrap_or_default())?)
}
