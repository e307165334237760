//! The settings of a run as words: their keys, what their values are, and what is wrong with others.

use core::{fmt, str::FromStr};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _},
};
use serde_json::Value;

use super::optimizer::OptimizerConfig;
use crate::config::nearest;

/// A setting that a run cannot have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FinetuneConfigError {
    /// A key that is none.
    #[error("`{key}` is no setting of a training run; {}", match nearest {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None => format!("there are {}", KEYS.map(|(key, _)| key).join(", ")),
    })]
    Key {
        /// The key.
        key: String,
        /// The most similar one.
        nearest: Option<&'static str>,
    },
    /// A setting without which there is no run.
    #[error("`{key}` is not given: {reason}")]
    Missing {
        /// The key.
        key: &'static str,
        /// What to give.
        reason: &'static str,
    },
    /// A value of another type, or one that says nothing.
    #[error("`{key}` is {found}: {reason}")]
    Value {
        /// The key.
        key: String,
        /// The value.
        found: String,
        /// Why not.
        reason: String,
    },
}

/// All keys, in the order of the fields, and what their values are.
const KEYS: [(&str, &str); 26] = [
    (
        "data",
        "the path of a file or a folder, such as \"texts.jsonl\"",
    ),
    (
        "eval",
        "the path of a file or a folder, such as \"held-out.txt\"",
    ),
    ("out", "the path of a folder, such as \"run\""),
    ("quant", "a format, such as \"nf4\""),
    ("train-type", "a name, such as \"qlora\""),
    (
        "adapter",
        "a text, such as \"lora:rank=16,alpha=32,targets=linear\", or the folder of an adapter",
    ),
    ("expand", "a text, such as \"blocks=8\""),
    ("steps", "a whole number above 0, such as 500"),
    ("epochs", "a number above 0, such as 2"),
    ("batch", "a whole number from 1 to 65536, such as 4"),
    ("length", "a whole number of 2 or more, such as 512"),
    ("accumulation", "a whole number from 1 to 65536, such as 8"),
    ("learning-rate", "a number above 0, such as 2e-4"),
    ("schedule", "\"constant\", \"linear\" or \"cosine\""),
    (
        "warmup",
        "a number of steps, such as 100, or a share below 1, such as 0.03",
    ),
    ("floor", "a number from 0 to 1, such as 0.1"),
    (
        "optimizer",
        "a text, such as \"adamw8bit\" or \"adamw:beta2=0.95\"",
    ),
    ("weight-decay", "0 or a number above it, such as 0.01"),
    ("clip", "0 or a number above it, such as 1"),
    ("seed", "a whole number of 0 or more, such as 1"),
    ("eval-every", "a whole number above 0, such as 50"),
    ("checkpoint-every", "a whole number above 0, such as 50"),
    ("keep", "a whole number of 2 or more, such as 2"),
    ("patience", "a whole number above 0, such as 3"),
    ("recompute", "true or false"),
    ("packing", "true or false"),
];

/// Keys whose values are words with a grammar of their own, whose errors say more than that a text is expected.
const WORDS: [&str; 6] = [
    "quant",
    "train-type",
    "adapter",
    "expand",
    "schedule",
    "optimizer",
];

/// The setting that a key names; `_` and `-` are one letter.
pub(super) fn setting(key: &str) -> Result<&'static str, FinetuneConfigError> {
    let name = key.replace('_', "-");
    let mut keys = KEYS.iter().map(|(key, _)| *key);
    let found = keys.clone().find(|key| *key == name);
    found.ok_or_else(|| FinetuneConfigError::Key {
        key: key.to_owned(),
        nearest: nearest(&name, &mut keys),
    })
}

/// The error of a value that the setting cannot have; `error` is what its type says.
pub(super) fn unfit(
    name: &str,
    found: &Value,
    error: Option<&dyn fmt::Display>,
) -> FinetuneConfigError {
    if let (Some(error), true) = (error, found.is_string() && WORDS.contains(&name)) {
        return wrong(name, found, &error.to_string());
    }
    let expected = KEYS.iter().find(|(key, _)| *key == name);
    let expected = expected.map_or("another value", |(_, expected)| expected);
    wrong(name, found, &format!("write {expected}"))
}

pub(super) fn wrong(key: &str, found: &Value, reason: &str) -> FinetuneConfigError {
    /// Letters of a value that are shown.
    const SHOWN: usize = 80;
    let found = match found {
        Value::String(text) => text.clone(),
        value => value.to_string(),
    };
    let mut letters = found.chars();
    let mut found: String = letters.by_ref().take(SHOWN).collect();
    found.extend(letters.next().map(|_| '…'));
    FinetuneConfigError::Value {
        key: key.to_owned(),
        found,
        reason: reason.to_owned(),
    }
}

/// A value as people write it, or the fields of its type.
pub(super) fn words_or_fields<'de, V, D>(from: D) -> Result<Option<V>, D::Error>
where
    V: FromStr<Err: fmt::Display> + DeserializeOwned,
    D: Deserializer<'de>,
{
    match Option::<Value>::deserialize(from)? {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(words)) => words.parse().map(Some).map_err(D::Error::custom),
        Some(fields) => serde_json::from_value(fields)
            .map(Some)
            .map_err(D::Error::custom),
    }
}

pub(super) fn optimizer<'de, D: Deserializer<'de>>(from: D) -> Result<OptimizerConfig, D::Error> {
    Ok(words_or_fields(from)?.unwrap_or_default())
}
