//! Ids and texts against what the Python library gives for the same files.
//!
//! `golden/tokenizer` holds two tokenizers: byte-level with a split regex, as Llama 3 has, and metaspace
//! with byte fallback, as Llama 2 has.

mod clean_up;
mod converted;
mod hostile;
mod special;
mod stream;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use firebox::text::{SpecialTokens, Tokenizer, TokenizerError, TokenizerFiles};
use serde_json::{Value, json};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// The tokenizer of a folder, with every file it has.
fn open(folder: &Path) -> Tokenizer {
    let read = |name: &str| fs::read(folder.join(name)).ok();
    let parse = |name: &str| read(name).map(|bytes| serde_json::from_slice(&bytes).unwrap());
    let generation_config: Option<Value> = parse("generation_config.json");
    let model_config: Option<Value> = parse("config.json");
    Tokenizer::from_bytes(TokenizerFiles {
        at: &folder.to_string_lossy(),
        tokenizer_json: Some(&read("tokenizer.json").unwrap()),
        config: read("tokenizer_config.json").as_deref(),
        special_tokens_map: read("special_tokens_map.json").as_deref(),
        chat_template_jinja: read("chat_template.jinja").as_deref(),
        generation_config: generation_config.as_ref(),
        model_config: model_config.as_ref(),
        ..TokenizerFiles::default()
    })
    .unwrap()
}

/// A tokenizer from JSON written in a test.
fn from_json(tokenizer: &Value) -> Tokenizer {
    Tokenizer::from_bytes(TokenizerFiles {
        tokenizer_json: Some(tokenizer.to_string().as_bytes()),
        ..TokenizerFiles::default()
    })
    .unwrap()
}

fn encodings(name: &str) -> Vec<Value> {
    let path = golden().join("tokenizer").join(name).join("encodings.json");
    let file: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let list = file["encodings"].as_array().unwrap().clone();
    assert_eq!(list.len() as u64, file["count"].as_u64().unwrap());
    list
}

fn ids(value: &Value) -> Vec<u32> {
    let list = value.as_array().unwrap().iter();
    list.map(|id| id.as_u64().unwrap() as u32).collect()
}

/// A lost normalizer, split regex, merge or post-processor changes some of these ids.
#[test]
fn ids_and_texts_are_those_of_the_python_library() {
    for name in ["bytelevel", "metaspace"] {
        let tokenizer = open(&golden().join("tokenizer").join(name));
        let encodings = encodings(name);
        assert_eq!(encodings.len(), 68);
        let mut texts = 0;
        for golden in &encodings {
            let text = golden["text"].as_str().unwrap();
            let with = ids(&golden["ids"]);
            let without = ids(&golden["ids_no_special"]);
            let encode = |special| tokenizer.encode(text, special).unwrap();
            assert_eq!(encode(SpecialTokens::Include), with, "{name}: {text:?}");
            assert_eq!(encode(SpecialTokens::Omit), without, "{name}: {text:?}");
            for (special, field) in [
                (SpecialTokens::Omit, "decode_skip_special"),
                (SpecialTokens::Include, "decode_keep_special"),
            ] {
                let decoded = tokenizer.decode(&with, special).unwrap();
                assert_eq!(decoded, golden[field].as_str().unwrap(), "{name}: {text:?}");
                texts += 1;
            }
        }
        assert_eq!(texts, 136);
    }
}

/// The files of a checkpoint, together.
#[test]
fn every_model_folder_has_a_working_tokenizer() {
    let mut folders: Vec<PathBuf> = fs::read_dir(golden().join("models"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("tokenizer.json").exists())
        .collect();
    folders.sort();
    assert!(folders.len() >= 6, "{folders:?}");
    for folder in folders {
        let tokenizer = open(&folder);
        assert_eq!(tokenizer.vocab_size(), 512, "{folder:?}");
        assert_eq!(tokenizer.bos(), Some(0), "{folder:?}");
        assert_eq!(tokenizer.eos_ids(), [1], "{folder:?}");
        assert_eq!(tokenizer.pad(), Some(2), "{folder:?}");
        for golden in encodings("bytelevel") {
            let text = golden["text"].as_str().unwrap();
            let found = tokenizer.encode(text, SpecialTokens::Include).unwrap();
            assert_eq!(found, ids(&golden["ids"]), "{folder:?}: {text:?}");
        }
    }
}

/// Tokens and ids are two names for one thing, both ways, for the whole vocabulary.
#[test]
fn every_id_has_its_token() {
    let tokenizer = open(&golden().join("tokenizer/metaspace"));
    let size = tokenizer.vocab_size() as u32;
    let tokens: BTreeSet<String> = (0..size)
        .map(|id| {
            let token = tokenizer.id_to_token(id).unwrap();
            assert_eq!(tokenizer.token_to_id(&token), Some(id));
            token
        })
        .collect();
    assert_eq!(tokens.len(), size as usize);
    assert_eq!(tokenizer.id_to_token(size), None);
    assert_eq!(tokenizer.token_to_id("no such token"), None);
}

/// A tokenizer.json may carry the truncation of a training run: a prompt cut at 4 tokens would be
/// answered all the same.
#[test]
fn truncation_and_padding_of_the_file_are_switched_off() {
    let bytes = fs::read(golden().join("tokenizer/bytelevel/tokenizer.json")).unwrap();
    let mut file: Value = serde_json::from_slice(&bytes).unwrap();
    let plain = from_json(&file);
    file["truncation"] =
        json!({"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0});
    file["padding"] = json!({"strategy": {"Fixed": 200}, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 2, "pad_type_id": 0, "pad_token": "<|pad|>"});
    let text = "The quick brown fox jumps over the lazy dog.";
    let expected = plain.encode(text, SpecialTokens::Include).unwrap();
    assert!(expected.len() > 4);
    let found = from_json(&file)
        .encode(text, SpecialTokens::Include)
        .unwrap();
    assert_eq!(found, expected);
}

/// An error that does not name its file sends the reader through five of them, and one that does
/// not name its folder through several models.
#[test]
fn a_broken_file_is_named() {
    let bytes = fs::read(golden().join("tokenizer/bytelevel/tokenizer.json")).unwrap();
    let whole = TokenizerFiles {
        tokenizer_json: Some(&bytes),
        ..TokenizerFiles::default()
    };
    let cases = [
        (
            "tokenizer.json",
            TokenizerFiles {
                tokenizer_json: Some(b"{}"),
                ..whole
            },
        ),
        (
            "tokenizer.json",
            TokenizerFiles {
                tokenizer_json: Some(&bytes[..bytes.len() / 2]),
                ..whole
            },
        ),
        (
            "tokenizer_config.json",
            TokenizerFiles {
                config: Some(b"{\"bos_token\": "),
                ..whole
            },
        ),
        (
            "tokenizer_config.json",
            TokenizerFiles {
                config: Some(b"[]"),
                ..whole
            },
        ),
        (
            "tokenizer_config.json",
            TokenizerFiles {
                config: Some(br#"{"chat_template": 3}"#),
                ..whole
            },
        ),
        (
            "special_tokens_map.json",
            TokenizerFiles {
                special_tokens_map: Some(b"\xFF"),
                ..whole
            },
        ),
        (
            "chat_template.jinja",
            TokenizerFiles {
                chat_template_jinja: Some(b"\xFF"),
                ..whole
            },
        ),
    ];
    for (name, files) in cases {
        for (at, expected) in [("", name.to_owned()), ("a/b", format!("a/b/{name}"))] {
            match Tokenizer::from_bytes(TokenizerFiles { at, ..files }) {
                Err(TokenizerError::Invalid { file, .. }) => assert_eq!(file, expected),
                other => panic!("{name}: {other:?}"),
            }
        }
    }
}

/// A byte-order mark, and words of Python in fields that nobody reads: the same ids.
#[test]
fn json_of_python_is_read_in_every_file() {
    let folder = golden().join("tokenizer/bytelevel");
    let json = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    let tokenizer = format!("\u{feff}{}", json("tokenizer.json"));
    let config =
        "\u{feff}{\"model_max_length\": Infinity, \"nobody\": [NaN, {\"reads\": -Infinity}]}";
    let files = TokenizerFiles {
        tokenizer_json: Some(tokenizer.as_bytes()),
        config: Some(config.as_bytes()),
        ..TokenizerFiles::default()
    };
    let read = Tokenizer::from_bytes(files).unwrap();
    let plain = json("tokenizer.json");
    let plain = Tokenizer::from_bytes(TokenizerFiles {
        tokenizer_json: Some(plain.as_bytes()),
        ..TokenizerFiles::default()
    });
    let encode = |tokenizer: &Tokenizer| {
        tokenizer.encode("NaN, Infinity: \"{NaN}\"", SpecialTokens::Include)
    };
    assert_eq!(encode(&read).unwrap(), encode(&plain.unwrap()).unwrap());
}
