//! From the keys of a file to the files of a tokenizer.
//!
//! | `tokenizer.ggml.model` | `tokenizer.json` |
//! |---|---|
//! | `gpt2` | byte pairs, cut by the expression that `tokenizer.ggml.pre` names |
//! | `llama` | pairs of the pieces of sentencepiece, in the order of their scores |
//! | `gemma4` | the same pieces, with merges of their own |
//!
//! Of a `llama`, a space comes before each part of a text: before the first, and before what follows a special token. llama.cpp
//! and transformers read files so, also of models whose tokenizer in transformers has `legacy: false`, and a space before the
//! first part alone.

use serde_json::{Value, json};

use super::{
    ContainerError,
    cuttings::Cutting,
    keys::Keys,
    pieces::pieces,
    tokens::{GgufToken, added, ends, special, vocabulary},
};

/// A file of a tokenizer.
pub(super) type TokenizerFile = (&'static str, Vec<u8>);

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
        tokenizer_config(keys, &tokens)?.to_string().into_bytes(),
    )];
    let json = match model {
        "gpt2" => pairs(keys, &tokens)?,
        "llama" | "gemma4" => pieces(keys, model, &tokens)?,
        found => {
            return Err(keys.refused_tokenizer("model", found, "gpt2, llama or gemma4"));
        }
    };
    files.push(("tokenizer.json", json.to_string().into_bytes()));
    Ok(files)
}

fn tokenizer_config(keys: &Keys<'_>, tokens: &[GgufToken<'_>]) -> Result<Value, ContainerError> {
    let mut config = json!({
        "clean_up_tokenization_spaces": false,
        "tokenizer_class": "PreTrainedTokenizerFast",
    });
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
    let merges = keys.texts("merges")?.unwrap_or_default();
    let bytes = |regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex });
    let ends = ends(keys, tokens, cutting.begins)?;
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added(tokens),
        "normalizer": cutting.normal_form.then(|| json!({ "type": "NFC" })),
        "pre_tokenizer": cutting.json(),
        "post_processor": ends.unwrap_or_else(|| bytes(true)),
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
            "vocab": vocabulary(tokens),
            "merges": merges,
        },
    }))
}
