//! JSON as Python writes it: with `Infinity`, `-Infinity` and `NaN`, which JSON does not have, and some editors' byte-order mark.
//!
//! Such a word becomes a text that no file has: a letter of Unicode's private area and the word. A field that nobody reads does no harm,
//! [`word`] finds the word in a field that somebody reads, and [`text`] and [`pretty`] write the word again. Crates for wider kinds of JSON
//! (JSON5) were no help: they make `null` of these words where the result is a [`Value`], which means an absent field, and accept comments
//! too.

use serde::de::{DeserializeOwned, Error};
use serde_json::Value;

/// The first letter of the text that stands for a word: of the private area of Unicode, so that no file means it.
const MARK: char = '\u{e000}';
const WORDS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads the JSON of a file.
pub(crate) fn read<T: DeserializeOwned>(bytes: &[u8]) -> serde_json::Result<T> {
    let bytes = without_mark(bytes);
    serde_json::from_slice(bytes).or_else(|error| match with_texts(bytes) {
        Some(bytes) => serde_json::from_slice(&bytes).map_err(without_texts),
        None => Err(error),
    })
}

/// The error without the letter that nobody wrote.
fn without_texts(error: serde_json::Error) -> serde_json::Error {
    // Texts are escaped in messages.
    let escaped = MARK.escape_debug().to_string();
    serde_json::Error::custom(error.to_string().replace(&escaped, ""))
}

/// The bytes without a byte-order mark.
pub(crate) fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes)
}

/// The same JSON with a text for each of Python's words outside of texts; `None` where there is no such word.
pub(crate) fn with_texts(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut read = Vec::with_capacity(bytes.len() + 64);
    let (mut rest, mut found, mut in_text) = (bytes, false, false);
    while let [first, after @ ..] = rest {
        let word = WORDS.iter().find(|word| is_value(rest, word));
        let len = match (in_text, first, word) {
            (false, _, Some(word)) => {
                found = true;
                read.extend_from_slice(quoted(word).as_bytes());
                rest = &rest[word.len()..];
                continue;
            }
            (true, b'\\', _) => 2.min(1 + after.len()),
            (_, b'"', _) => {
                in_text = !in_text;
                1
            }
            _ => 1,
        };
        read.extend_from_slice(&rest[..len]);
        rest = &rest[len..];
    }
    found.then_some(read)
}

/// Whether `rest` begins with the word, and not as the name of a field.
fn is_value(rest: &[u8], word: &str) -> bool {
    let after = rest.strip_prefix(word.as_bytes());
    after.is_some_and(|after| !after.trim_ascii_start().starts_with(b":"))
}

/// The word of Python that a value stands for, if it stands for one.
pub(crate) fn word(value: &Value) -> Option<&str> {
    value.as_str()?.strip_prefix(MARK)
}

/// The value as JSON has it: a text for each of Python's words.
pub(crate) fn plain(value: &Value) -> Value {
    match value {
        Value::Array(list) => list.iter().map(plain).collect(),
        Value::Object(fields) => {
            let fields = fields.iter();
            fields
                .map(|(field, value)| (field.clone(), plain(value)))
                .collect()
        }
        value => word(value).map_or_else(|| value.clone(), Value::from),
    }
}

/// A value in one line, as Python writes it.
pub(crate) fn text(value: &Value) -> String {
    with_words(value.to_string())
}

/// A value with a line for each field, as Python writes it.
pub(crate) fn pretty(value: &Value) -> String {
    with_words(format!("{value:#}"))
}

fn with_words(text: String) -> String {
    if !text.contains(MARK) {
        return text;
    }
    WORDS
        .iter()
        .fold(text, |text, word| text.replace(&quoted(word), word))
}

fn quoted(word: &str) -> String {
    format!("\"{MARK}{word}\"")
}
