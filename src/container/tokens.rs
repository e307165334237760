//! The tokens of a file, as `tokenizer.json` has them.

use serde_json::{Value, json};

use super::{ContainerError, keys::Keys};

/// Types of tokens.
pub(super) const NORMAL: i64 = 1;
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
pub(super) const USER: i64 = 4;

/// A token of the vocabulary.
pub(super) struct GgufToken<'a> {
    pub(super) text: &'a str,
    pub(super) kind: i64,
}

/// The token of a key that ends in `_token_id`.
pub(super) fn special<'t>(
    keys: &Keys<'_>,
    tokens: &[GgufToken<'t>],
    name: &str,
) -> Option<&'t str> {
    let id = keys.token(&format!("tokenizer.ggml.{name}_token_id"))?;
    let token = tokens.get(usize::try_from(id).ok()?)?;
    Some(token.text)
}

/// The tokens, and their ids.
pub(super) fn vocabulary(tokens: &[GgufToken<'_>]) -> serde_json::Map<String, Value> {
    let tokens = tokens.iter().enumerate();
    let ids = tokens.map(|(id, token)| (token.text.to_owned(), id.into()));
    ids.collect()
}

/// The tokens that are found before a text is cut.
pub(super) fn added(tokens: &[GgufToken<'_>]) -> Vec<Value> {
    let tokens = tokens.iter().enumerate();
    let added = tokens.filter_map(|(id, token)| {
        let special = [CONTROL, UNKNOWN].contains(&token.kind);
        (special || token.kind == USER).then(|| {
            json!({
                "id": id, "content": token.text, "special": special,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            })
        })
    });
    added.collect()
}

/// The tokens before and after each text; `None` where there are none. Without a key, a text `begins` with one or not.
pub(super) fn ends(
    keys: &Keys<'_>,
    tokens: &[GgufToken<'_>],
    begins: bool,
) -> Result<Option<Value>, ContainerError> {
    let begins = keys.flag("add_bos_token")?.unwrap_or(begins);
    let ends = keys.flag("add_eos_token")?.unwrap_or(false);
    let of = |name: &str, is_there: bool| {
        let token = special(keys, tokens, name).filter(|_| is_there)?;
        let id = keys.token(&format!("tokenizer.ggml.{name}_token_id"))?;
        Some((token, id))
    };
    let [first, last] = [of("bos", begins), of("eos", ends)];
    if first.is_none() && last.is_none() {
        return Ok(None);
    }
    let end = |token: Option<(&str, u64)>| {
        token.map(|(token, _)| json!({ "SpecialToken": { "id": token, "type_id": 0 } }))
    };
    let around = |name: &str| {
        let text = json!({ "Sequence": { "id": name, "type_id": 0 } });
        let parts = [end(first), Some(text), end(last)].into_iter();
        parts.flatten().collect::<Vec<Value>>()
    };
    let pair = [around("A"), around("B")].concat();
    let named = [first, last].into_iter().flatten().map(|(token, id)| {
        let named = json!({ "id": token, "ids": [id], "tokens": [token] });
        (token.to_owned(), named)
    });
    Ok(Some(json!({
        "type": "TemplateProcessing",
        "single": around("A"),
        "pair": pair,
        "special_tokens": named.collect::<serde_json::Map<_, _>>(),
    })))
}
