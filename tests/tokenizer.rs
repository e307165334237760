//! Ids and texts against what the Python library gives for the same files.
//!
//! `golden/tokenizer` holds two tokenizers: byte-level with a split regex, as Llama 3 has, and metaspace
//! with byte fallback, as Llama 2 has.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use firebox::tokenizer::{SpecialTokens, Tokenizer, TokenizerError, TokenizerFiles};
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
        tokenizer_json: &read("tokenizer.json").unwrap(),
        config: read("tokenizer_config.json").as_deref(),
        special_tokens_map: read("special_tokens_map.json").as_deref(),
        chat_template_jinja: read("chat_template.jinja").as_deref(),
        generation_config: generation_config.as_ref(),
        model_config: model_config.as_ref(),
    })
    .unwrap()
}

/// A tokenizer from JSON written in a test.
fn from_json(tokenizer: &Value) -> Tokenizer {
    Tokenizer::from_bytes(TokenizerFiles {
        tokenizer_json: tokenizer.to_string().as_bytes(),
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

/// Streams ids one at a time and returns the pieces, the rest last.
fn stream(tokenizer: &Tokenizer, ids: &[u32], special: SpecialTokens) -> Vec<String> {
    let mut stream = tokenizer.stream(special);
    let mut pieces: Vec<String> = ids
        .iter()
        .filter_map(|id| stream.push(*id).unwrap())
        .collect();
    pieces.push(stream.finish().unwrap());
    pieces
}

/// Streaming and decoding at once must agree, whatever the ids are.
fn assert_streams_as_it_decodes(tokenizer: &Tokenizer, ids: &[u32]) {
    for special in [SpecialTokens::Include, SpecialTokens::Omit] {
        let whole = tokenizer.decode(ids, special).unwrap();
        assert_eq!(stream(tokenizer, ids, special).concat(), whole, "{ids:?}");
    }
}

/// Uniform numbers below `below` (SplitMix64), for texts that nobody would think of.
fn random(seed: u64, below: u32, count: usize) -> Vec<u32> {
    let next = |i: u64| {
        let mut z = seed.wrapping_add((i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % u64::from(below)) as u32
    };
    (0..count as u64).map(next).collect()
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

/// Streaming by decoding each id alone loses characters that span tokens, and puts the first space of a
/// metaspace text in the wrong place.
#[test]
fn streaming_gives_every_golden_text() {
    for name in ["bytelevel", "metaspace"] {
        let tokenizer = open(&golden().join("tokenizer").join(name));
        let mut streamed = 0;
        for golden in encodings(name) {
            let ids = ids(&golden["ids"]);
            for (special, field) in [
                (SpecialTokens::Omit, "decode_skip_special"),
                (SpecialTokens::Include, "decode_keep_special"),
            ] {
                let pieces = stream(&tokenizer, &ids, special);
                assert_eq!(pieces.concat(), golden[field].as_str().unwrap());
                // Whole texts are valid: no piece may show half a character.
                assert!(!pieces.concat().contains('\u{FFFD}'));
                streamed += 1;
            }
        }
        assert_eq!(streamed, 136);
    }
}

/// Ids at random are mostly invalid UTF-8: a decoder that waits for a character that never comes, or
/// gives up on one that would have come, differs here. Ids past the vocabulary are among them.
#[test]
fn streaming_agrees_on_ids_that_are_no_text() {
    for name in ["bytelevel", "metaspace"] {
        let tokenizer = open(&golden().join("tokenizer").join(name));
        let vocab = tokenizer.vocab_size() as u32;
        for seed in 0..400 {
            assert_streams_as_it_decodes(&tokenizer, &random(seed, vocab + 4, 60));
        }
    }
    // Only the byte tokens of metaspace: long runs, valid and not.
    let tokenizer = open(&golden().join("tokenizer/metaspace"));
    let first = tokenizer.token_to_id("<0x00>").unwrap();
    for seed in 0..400 {
        let mut ids = random(seed, 256, 12);
        ids.iter_mut().for_each(|id| *id += first);
        assert_streams_as_it_decodes(&tokenizer, &ids);
    }
}

/// A character is shown with the token that completes it, not one later and not half.
#[test]
fn characters_appear_with_the_token_that_completes_them() {
    let tokenizer = open(&golden().join("tokenizer/bytelevel"));
    let ids = tokenizer.encode("a🙂b", SpecialTokens::Omit).unwrap();
    let mut stream = tokenizer.stream(SpecialTokens::Omit);
    let pushed: Vec<Option<String>> = ids.iter().map(|id| stream.push(*id).unwrap()).collect();
    let shown: Vec<Option<&str>> = pushed.iter().map(Option::as_deref).collect();
    assert_eq!(shown.first(), Some(&Some("a")));
    assert_eq!(shown.last(), Some(&Some("b")));
    assert_eq!(shown[shown.len() - 2], Some("🙂"));
    assert_eq!(shown.iter().flatten().count(), 3);
    assert_eq!(stream.finish().unwrap(), "");
}

/// The end of the text is the last chance to show what was held back.
#[test]
fn an_unfinished_character_comes_out_at_the_end() {
    for (name, beginning, expected) in [
        ("bytelevel", vec!["ð", "Ł"], "\u{FFFD}"),
        // The library replaces each byte token by one U+FFFD.
        ("metaspace", vec!["<0xF0>", "<0x9F>"], "\u{FFFD}\u{FFFD}"),
    ] {
        let tokenizer = open(&golden().join("tokenizer").join(name));
        let mut stream = tokenizer.stream(SpecialTokens::Omit);
        for token in beginning {
            let id = tokenizer.token_to_id(token).unwrap();
            assert_eq!(stream.push(id).unwrap(), None);
        }
        assert_eq!(stream.finish().unwrap(), expected);
    }
}

/// The run is over when text comes, and only its end says whether it was valid.
#[test]
fn a_run_of_byte_tokens_comes_out_when_it_ends() {
    let tokenizer = open(&golden().join("tokenizer/metaspace"));
    let id = |token: &str| tokenizer.token_to_id(token).unwrap();
    let mut stream = tokenizer.stream(SpecialTokens::Omit);
    for byte in ["<0xE5>", "<0x8F>", "<0xAB>"] {
        assert_eq!(stream.push(id(byte)).unwrap(), None);
    }
    assert_eq!(stream.push(id("a")).unwrap().as_deref(), Some("叫a"));
}

/// The decodings for decoders that are not known, and for a known one in an order that means something else.
#[test]
fn other_decoders_stream_as_they_decode() {
    let strip_each = json!({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        {"type": "Fuse"},
    ]});
    let gemma = json!({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]});
    let decoders = [
        Value::Null,
        json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true}),
        json!({"type": "BPEDecoder", "suffix": "</w>"}),
        json!({"type": "Fuse"}),
        json!({"type": "Sequence", "decoders": [{"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}]}),
        strip_each,
        gemma,
    ];
    let words = [
        "<unk>",
        "▁",
        "▁▁",
        "▁the",
        "▁a",
        "cat",
        "##s",
        "'s",
        ".",
        "n't",
        "do</w>",
        "not</w>",
        "é",
        "日",
        "<0x41>",
        "<s>",
        "plain 日 token",
    ];
    let vocab: serde_json::Map<_, _> = words
        .iter()
        .enumerate()
        .map(|(id, word)| ((*word).to_owned(), json!(id)))
        .collect();
    for decoder in decoders {
        let tokenizer = from_json(&json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": [{"id": 15, "content": "<s>", "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true}],
            "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": decoder,
            "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
        }));
        for seed in 0..200 {
            assert_streams_as_it_decodes(&tokenizer, &random(seed, 18, 40));
        }
    }
}

/// 40,000 ids: a stream that decodes everything again for each of them does not come to an end.
#[test]
fn long_texts_do_not_slow_the_stream_down() {
    for (name, tokens) in [("bytelevel", ["a", "ð"]), ("metaspace", ["a", "<0xF0>"])] {
        let tokenizer = open(&golden().join("tokenizer").join(name));
        for token in tokens {
            let id = tokenizer.token_to_id(token).unwrap();
            let ids = vec![id; 40_000];
            assert_streams_as_it_decodes(&tokenizer, &ids);
        }
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

/// Where generation stops: the first file of the list that says so. Taking the tokenizer's word before
/// generation_config.json makes Llama 3 talk on past the end of its turn.
#[test]
fn the_end_is_where_the_first_file_says() {
    let bytes = fs::read(golden().join("tokenizer/bytelevel/tokenizer.json")).unwrap();
    let eos = |generation: Option<Value>, config: Option<Value>, model: Option<Value>| {
        let config = config.map(|config| config.to_string());
        Tokenizer::from_bytes(TokenizerFiles {
            tokenizer_json: &bytes,
            config: config.as_ref().map(String::as_bytes),
            generation_config: generation.as_ref(),
            model_config: model.as_ref(),
            ..TokenizerFiles::default()
        })
        .unwrap()
        .eos_ids()
        .to_vec()
    };
    let named = || Some(json!({"eos_token": "<|end|>"}));
    assert_eq!(eos(Some(json!({"eos_token_id": 7})), named(), None), [7]);
    assert_eq!(
        eos(Some(json!({"eos_token_id": [7, 9]})), named(), None),
        [7, 9]
    );
    assert_eq!(eos(Some(json!({"eos_token_id": null})), named(), None), [1]);
    assert_eq!(eos(None, named(), Some(json!({"eos_token_id": 7}))), [1]);
    let added = json!({"eos_token": {"__type": "AddedToken", "content": "<|end|>"}});
    assert_eq!(eos(None, Some(added), None), [1]);
    let unknown = json!({"eos_token": "<not in the vocabulary>"});
    assert_eq!(
        eos(None, Some(unknown), Some(json!({"eos_token_id": [3]}))),
        [3]
    );
    assert_eq!(eos(Some(json!({"eos_token_id": -1})), None, None), [0; 0]);
    assert_eq!(eos(None, None, None), [0; 0]);
}

/// Catches an end that is ignored because of how it is written: the model would talk on to the limit.
#[test]
fn an_end_that_is_no_id_is_refused_with_file_and_value() {
    let bytes = fs::read(golden().join("tokenizer/bytelevel/tokenizer.json")).unwrap();
    let whole = TokenizerFiles {
        tokenizer_json: &bytes,
        ..TokenizerFiles::default()
    };
    let cases = [
        (json!("x"), "\"x\""),
        (json!(1.5), "1.5"),
        (json!(true), "true"),
        (json!(1_u64 << 40), "1099511627776"),
        (json!([[1]]), "[1]"),
        (json!([1, -2]), "-2"),
        (json!({"id": 1}), "{\"id\":1}"),
    ];
    for (value, said) in cases {
        let config = json!({ "eos_token_id": value });
        let generation_config = TokenizerFiles {
            generation_config: Some(&config),
            ..whole
        };
        let model_config = TokenizerFiles {
            model_config: Some(&config),
            ..whole
        };
        for (name, files) in [
            ("generation_config.json", generation_config),
            ("config.json", model_config),
        ] {
            match Tokenizer::from_bytes(files) {
                Err(TokenizerError::NoId { file, field, found }) => {
                    assert_eq!((&*file, field, &*found), (name, "eos_token_id", said));
                }
                other => panic!("{name}: {value}: {other:?}"),
            }
        }
    }
    // What configurations write for none.
    for none in [json!(null), json!(-1), json!([]), json!([null, -1])] {
        let config = json!({ "eos_token_id": none, "bos_token_id": none, "pad_token_id": none });
        let files = TokenizerFiles {
            generation_config: Some(&config),
            ..whole
        };
        let tokenizer = Tokenizer::from_bytes(files).unwrap();
        assert_eq!(tokenizer.eos_ids(), [0; 0], "{none}");
        assert_eq!((tokenizer.bos(), tokenizer.pad()), (None, None), "{none}");
    }
}

/// The older file fills gaps and no more.
#[test]
fn special_tokens_map_fills_gaps() {
    let bytes = fs::read(golden().join("tokenizer/bytelevel/tokenizer.json")).unwrap();
    let tokenizer = Tokenizer::from_bytes(TokenizerFiles {
        tokenizer_json: &bytes,
        config: Some(br#"{"bos_token": "<|begin|>", "pad_token": null}"#),
        special_tokens_map: Some(
            br#"{"bos_token": "<|end|>", "pad_token": {"content": "<|pad|>"}}"#,
        ),
        ..TokenizerFiles::default()
    })
    .unwrap();
    assert_eq!(tokenizer.bos(), Some(0));
    assert_eq!(tokenizer.pad(), Some(2));
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
        tokenizer_json: &bytes,
        ..TokenizerFiles::default()
    };
    let cases = [
        (
            "tokenizer.json",
            TokenizerFiles {
                tokenizer_json: b"{}",
                ..whole
            },
        ),
        (
            "tokenizer.json",
            TokenizerFiles {
                tokenizer_json: &bytes[..bytes.len() / 2],
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
