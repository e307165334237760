//! `tokenizer.json` of the pieces of sentencepiece.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{
    ContainerError,
    keys::Keys,
    tokens::{GgufToken, NORMAL, USER, added, ends, special, vocabulary},
};

/// The letter of sentencepiece for a space.
const SPACE: &str = "▁";

/// How llama.cpp cuts texts of Gemma 4 (`LLAMA_VOCAB_PRE_TYPE_GEMMA4`): around runs of ends of lines.
const LINES: &str = r"[^\n]+|[\n]+";

/// Pieces of which pairs merge, and what is no piece is bytes.
pub(super) fn pieces(
    keys: &Keys<'_>,
    model: &str,
    tokens: &[GgufToken<'_>],
) -> Result<Value, ContainerError> {
    let own = keys.texts("merges")?;
    let (merges, cutter) = match (model, own) {
        ("gemma4", Some(merges)) => {
            let lines = json!({
                "type": "Split", "pattern": { "Regex": LINES },
                "behavior": "Isolated", "invert": false,
            });
            (pairs(keys, merges)?, lines)
        }
        _ => (by_score(keys, tokens)?, Value::Null),
    };
    let space = keys.flag("add_space_prefix")?.unwrap_or(model == "llama");
    let letter = json!({ "type": "Replace", "pattern": { "String": " " }, "content": SPACE });
    let before = space.then(|| json!({ "type": "Prepend", "prepend": SPACE }));
    let normalizers: Vec<Value> = before.into_iter().chain([letter]).collect();
    let back = json!({ "type": "Replace", "pattern": { "String": SPACE }, "content": " " });
    let without = space.then(|| json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    let decoders = [
        Some(back),
        Some(json!({ "type": "ByteFallback" })),
        Some(json!({ "type": "Fuse" })),
        without,
    ];
    let decoders: Vec<Value> = decoders.into_iter().flatten().collect();
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added(tokens),
        "normalizer": { "type": "Sequence", "normalizers": normalizers },
        "pre_tokenizer": cutter,
        "post_processor": ends(keys, tokens, true)?,
        "decoder": { "type": "Sequence", "decoders": decoders },
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": special(keys, tokens, "unknown"),
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": true,
            "byte_fallback": true,
            "ignore_merges": false,
            "vocab": vocabulary(tokens),
            "merges": merges,
        },
    }))
}

/// The merges of a file, two pieces with a space between them each.
fn pairs<'m>(keys: &Keys<'_>, merges: &'m [String]) -> Result<Vec<[&'m str; 2]>, ContainerError> {
    let pairs = merges.iter().map(|merge| {
        let pair = merge.split_once(' ').map(|(left, right)| [left, right]);
        pair.ok_or_else(|| keys.refused_tokenizer("merges", format!("{merge:?}"), "pairs"))
    });
    pairs.collect()
}

/// All pairs of pieces that make a piece, of which llama.cpp merges the one with the highest score first.
fn by_score<'t>(
    keys: &Keys<'_>,
    tokens: &[GgufToken<'t>],
) -> Result<Vec<[&'t str; 2]>, ContainerError> {
    let scores = keys.floats("scores")?.unwrap_or_default();
    let score = |id: usize| scores.get(id).copied().unwrap_or_default();
    let is_text = |token: &GgufToken<'_>| [NORMAL, USER].contains(&token.kind);
    let known: HashSet<&str> = (tokens.iter())
        .filter(|token| is_text(token))
        .map(|token| token.text)
        .collect();
    let mut order: Vec<usize> = (0..tokens.len())
        .filter(|id| is_text(&tokens[*id]))
        .collect();
    // Equal ones stay in the order of their ids.
    order.sort_by(|one, other| score(*other).total_cmp(&score(*one)));
    let merges = order.into_iter().flat_map(|id| {
        let text = tokens[id].text;
        let cuts = text.char_indices().skip(1);
        let cuts = cuts.map(move |(at, _)| text.split_at(at));
        let whole = cuts.filter(|(left, right)| known.contains(left) && known.contains(right));
        whole.map(|(left, right)| [left, right])
    });
    Ok(merges.collect())
}
