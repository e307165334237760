//! `tokenizer.json`, checked where the library that reads it would panic instead of giving an error.

use std::collections::HashMap;

use serde::{Deserialize, de::IgnoredAny};
use serde_json::Value;

use super::{
    convert::{check_charsmap, check_id, check_merges},
    error::BoxError,
};
use crate::source::json;

/// Reads the file.
pub(super) fn read(bytes: &[u8]) -> Result<tokenizers::Tokenizer, BoxError> {
    let bytes = json::without_mark(bytes);
    let Err(error) = check(bytes) else {
        return tokenizers::Tokenizer::from_bytes(bytes);
    };
    let bytes = json::with_texts(bytes).ok_or(error)?;
    check(&bytes)?;
    tokenizers::Tokenizer::from_bytes(bytes)
}

#[derive(Deserialize)]
struct TokenizerJson {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    added_tokens: Vec<Id>,
    model: Option<ModelKeys>,
}

/// Only a model of pairs has merges.
#[derive(Deserialize)]
struct ModelKeys {
    merges: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Id {
    id: u64,
    content: String,
}

/// The file where its model merges pairs.
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
    let json: TokenizerJson = serde_json::from_slice(bytes)?;
    for token in &json.added_tokens {
        check_id(&token.content, token.id)?;
    }
    check_normalizer(&json.normalizer)?;
    if json.model.is_some_and(|model| model.merges.is_some()) {
        let of_pairs: OfPairs = serde_json::from_slice(bytes)?;
        check_pairs(&of_pairs.model)?;
    }
    Ok(())
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
