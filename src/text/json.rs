//! `tokenizer.json`, checked where the library that reads it would panic instead of giving an error.

use std::collections::HashMap;

use serde::{Deserialize, de::IgnoredAny};
use serde_json::Value;

use super::{
    convert::{check_charsmap, check_id, check_merges},
    error::BoxError,
    growth::{Factor, Growth},
};
use crate::source::json;

/// Reads the file, and says how much texts grow by it.
pub(super) fn read(bytes: &[u8]) -> Result<(tokenizers::Tokenizer, Growth), BoxError> {
    let read = |bytes: &[u8], growth| Ok((tokenizers::Tokenizer::from_bytes(bytes)?, growth));
    let bytes = json::without_mark(bytes);
    match check(bytes) {
        Ok(growth) => read(bytes, growth),
        Err(error) => {
            let bytes = json::with_texts(bytes).ok_or(error)?;
            read(&bytes, check(&bytes)?)
        }
    }
}

/// All parts but the vocabulary are read as values, by the rules that the library reads them by: it panics where a part of a
/// decoder cannot be read.
#[derive(Deserialize)]
struct TokenizerJson {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
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

fn check(bytes: &[u8]) -> Result<Growth, BoxError> {
    let json: TokenizerJson = serde_json::from_slice(bytes)?;
    for token in &json.added_tokens {
        check_id(&token.content, token.id)?;
    }
    check_normalizer(&json.normalizer)?;
    check_pre_tokenizer(&json.pre_tokenizer)?;
    check_post_processor(&json.post_processor)?;
    if json.model.is_some_and(|model| model.merges.is_some()) {
        let of_pairs: OfPairs = serde_json::from_slice(bytes)?;
        check_pairs(&of_pairs.model)?;
    }
    Ok(Growth {
        encode: Factor::of(&json.normalizer, "normalizer")?,
        decode: Factor::of(&json.decoder, "decoder")?,
    })
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
        None if normalizer["type"] == "Precompiled" => {
            Err("a normalizer is `Precompiled`, and its `precompiled_charsmap` is no text".into())
        }
        None => Ok(()),
    }
}

fn check_pre_tokenizer(pre_tokenizer: &Value) -> Result<(), BoxError> {
    let steps = pre_tokenizer["pretokenizers"].as_array();
    for step in steps.into_iter().flatten() {
        check_pre_tokenizer(step)?;
    }
    if pre_tokenizer["length"] == 0 {
        return Err("a pre-tokenizer cuts a text in parts of the length 0".into());
    }
    Ok(())
}

/// A template writes the text, which is its sequence A, and tokens that the template lists. It makes several parts of one,
/// so that a second template behind it has no text to write.
fn check_post_processor(post_processor: &Value) -> Result<(), BoxError> {
    let mut templates = Vec::new();
    let mut open = vec![post_processor];
    while let Some(processor) = open.pop() {
        open.extend(processor["processors"].as_array().into_iter().flatten());
        if processor["single"].is_array() {
            templates.push(processor);
        }
    }
    if templates.len() > 1 {
        return Err("`post_processor` has more than one template".into());
    }
    for template in templates {
        let parts = ["single", "pair"].map(|key| template[key].as_array());
        for (part, is_single) in parts.into_iter().zip([true, false]) {
            for piece in part.into_iter().flatten() {
                if is_single && piece["Sequence"]["id"] == "B" {
                    return Err("`post_processor` writes a second text where there is one".into());
                }
                if let Some(id) = piece["SpecialToken"]["id"].as_str()
                    && template["special_tokens"].get(id).is_none()
                {
                    let message =
                        format!("`post_processor` writes {id:?}, which its `special_tokens` lack");
                    return Err(message.into());
                }
            }
        }
    }
    Ok(())
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
