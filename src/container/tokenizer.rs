//! From the keys of a file to the files of a tokenizer.
//!
//! | `tokenizer.ggml.model` | files |
//! |---|---|
//! | `gpt2` | `tokenizer.json`: byte pairs, cut by the expression that `tokenizer.ggml.pre` names |
//! | `llama` | `tokenizer.model`: the pieces and scores of sentencepiece |

use serde_json::{Value, json};

use super::{ContainerError, cuttings::Cutting, keys::Keys};

/// A file of a tokenizer.
pub(super) type TokenizerFile = (&'static str, Vec<u8>);

/// Types of tokens.
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER: i64 = 4;

/// A token of the vocabulary.
struct GgufToken<'a> {
    text: &'a str,
    kind: i64,
}

/// The files of the tokenizer; none for a file without one.
pub(super) fn files(keys: &Keys<'_>) -> Result<Vec<TokenizerFile>, ContainerError> {
    let Some(model) = keys.tokenizer_text("model")? else {
        return Ok(Vec::new());
    };
    let Some(texts) = keys.texts("tokens")? else {
        return Ok(Vec::new());
    };
    let kinds = keys.numbers("token_type")?;
    let kind = |id: usize| kinds.and_then(|kinds| kinds.get(id)).copied().unwrap_or(1);
    let tokens: Vec<GgufToken<'_>> = (texts.iter().enumerate())
        .map(|(id, text)| GgufToken {
            text,
            kind: kind(id),
        })
        .collect();
    let mut files = vec![(
        "tokenizer_config.json",
        tokenizer_config(keys, model, &tokens)?
            .to_string()
            .into_bytes(),
    )];
    files.push(match model {
        "gpt2" => (
            "tokenizer.json",
            pairs(keys, &tokens)?.to_string().into_bytes(),
        ),
        "llama" => ("tokenizer.model", pieces(keys, &tokens)?),
        found => {
            return Err(keys.refused_tokenizer("model", found, "gpt2 or llama"));
        }
    });
    Ok(files)
}

/// The token of a key that ends in `_token_id`.
fn special<'t>(keys: &Keys<'_>, tokens: &[GgufToken<'t>], name: &str) -> Option<&'t str> {
    let id = keys.token(&format!("tokenizer.ggml.{name}_token_id"))?;
    let token = tokens.get(usize::try_from(id).ok()?)?;
    Some(token.text)
}

fn tokenizer_config(
    keys: &Keys<'_>,
    model: &str,
    tokens: &[GgufToken<'_>],
) -> Result<Value, ContainerError> {
    let mut config = json!({ "clean_up_tokenization_spaces": false });
    config["tokenizer_class"] = match model {
        "llama" => "LlamaTokenizer".into(),
        _ => "PreTrainedTokenizerFast".into(),
    };
    if let Some(add) = keys.flag("add_bos_token")? {
        config["add_bos_token"] = add.into();
    }
    if let Some(add) = keys.flag("add_eos_token")? {
        config["add_eos_token"] = add.into();
    }
    for (field, name) in [
        ("bos_token", "bos"),
        ("eos_token", "eos"),
        ("pad_token", "padding"),
        ("unk_token", "unknown"),
    ] {
        if let Some(token) = special(keys, tokens, name) {
            config[field] = token.into();
        }
    }
    if let Some(template) = keys.chat_template()? {
        config["chat_template"] = template.into();
    }
    Ok(config)
}

/// `tokenizer.json` of byte pairs.
fn pairs(keys: &Keys<'_>, tokens: &[GgufToken<'_>]) -> Result<Value, ContainerError> {
    let name = keys.tokenizer_text("pre")?.unwrap_or("absent");
    let Some(cutting) = Cutting::named(name) else {
        return Err(keys.refused_tokenizer("pre", name, Cutting::known()));
    };
    let vocabulary: serde_json::Map<String, Value> = (tokens.iter().enumerate())
        .map(|(id, token)| (token.text.to_owned(), id.into()))
        .collect();
    let merges = keys.texts("merges")?.unwrap_or_default();
    let added = tokens.iter().enumerate().filter_map(|(id, token)| {
        let special = [CONTROL, UNKNOWN].contains(&token.kind);
        (special || token.kind == USER).then(|| {
            json!({
                "id": id, "content": token.text, "special": special,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            })
        })
    });
    let bytes = |regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex });
    let begins = keys.flag("add_bos_token")?.unwrap_or(cutting.begins);
    let first = special(keys, tokens, "bos").filter(|_| begins);
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added.collect::<Vec<_>>(),
        "normalizer": cutting.normal_form.then(|| json!({ "type": "NFC" })),
        "pre_tokenizer": cutting.json(),
        "post_processor": first.map_or_else(|| bytes(true), |first| {
            let id = keys.token("tokenizer.ggml.bos_token_id");
            beginning(first, id.unwrap_or_default())
        }),
        "decoder": bytes(true),
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": cutting.whole_words,
            "vocab": vocabulary,
            "merges": merges,
        },
    }))
}

/// A token before each text.
fn beginning(token: &str, id: u64) -> Value {
    let text = |name: &str| json!({ "Sequence": { "id": name, "type_id": 0 } });
    let first = json!({ "SpecialToken": { "id": token, "type_id": 0 } });
    let mut special = serde_json::Map::new();
    special.insert(
        token.to_owned(),
        json!({ "id": token, "ids": [id], "tokens": [token] }),
    );
    json!({
        "type": "TemplateProcessing",
        "single": [first, text("A")],
        "pair": [first, text("A"), first, text("B")],
        "special_tokens": special,
    })
}

/// `tokenizer.model`: the message `ModelProto` of sentencepiece.
fn pieces(keys: &Keys<'_>, tokens: &[GgufToken<'_>]) -> Result<Vec<u8>, ContainerError> {
    /// A number in as many bytes as it takes, seven bits each.
    fn number(to: &mut Vec<u8>, mut value: u64) {
        while value > 127 {
            to.push(value as u8 | 128);
            value >>= 7;
        }
        to.push(value as u8);
    }
    /// A field of bytes.
    fn field(to: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
        to.push(tag << 3 | 2);
        number(to, bytes.len() as u64);
        to.extend(bytes);
    }
    let scores = keys.floats("scores")?.unwrap_or_default();
    let mut model = Vec::new();
    for (id, token) in tokens.iter().enumerate() {
        let mut piece = Vec::new();
        field(&mut piece, 1, token.text.as_bytes());
        piece.push(2 << 3 | 5);
        let score = scores.get(id).copied().unwrap_or_default() as f32;
        piece.extend(score.to_le_bytes());
        piece.push(3 << 3);
        number(&mut piece, u64::try_from(token.kind).unwrap_or(1));
        field(&mut model, 1, &piece);
    }
    // Pairs of pieces merge, and what is no piece is bytes.
    let mut trainer = vec![3 << 3, 2];
    number(&mut trainer, 35 << 3);
    trainer.push(1);
    for (tag, name) in [
        (40u64, "unknown"),
        (41, "bos"),
        (42, "eos"),
        (43, "padding"),
    ] {
        // An id of -1 is one that there is not.
        let id = keys.token(&format!("tokenizer.ggml.{name}_token_id"));
        number(&mut trainer, tag << 3);
        number(&mut trainer, id.unwrap_or(u64::MAX));
    }
    field(&mut model, 2, &trainer);
    // The space in front of a text; spaces are neither added elsewhere nor taken away.
    let space = keys.flag("add_space_prefix")?.unwrap_or(true);
    let normalizer = [3 << 3, u8::from(space), 4 << 3, 0, 5 << 3, 1];
    field(&mut model, 3, &normalizer);
    Ok(model)
}
