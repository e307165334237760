//! Files of a tokenizer that were made to end the process that reads them.

use std::fs;

use firebox::text::{SpecialTokens, Tokenizer, TokenizerError, TokenizerFiles};
use serde_json::{Value, json};

use crate::golden;

/// A tokenizer of two letters and their pair, with some parts changed.
fn file(part: &str, value: Value) -> String {
    let mut file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": {"a": 0, "b": 1, "aa": 2}, "merges": [["a", "a"]]},
    });
    match value {
        Value::Object(fields) if part == "model" => {
            for (key, value) in fields {
                file["model"][key] = value;
            }
        }
        value => file[part] = value,
    }
    file.to_string()
}

/// Opens a file and uses it both ways; the error says at which of the three it failed.
fn used(bytes: &[u8], text: &str) -> Result<String, TokenizerError> {
    let tokenizer = Tokenizer::from_bytes(TokenizerFiles {
        tokenizer_json: Some(bytes),
        ..TokenizerFiles::default()
    })?;
    let ids = tokenizer.encode(text, SpecialTokens::Include)?;
    tokenizer.decode(&ids, SpecialTokens::Omit)?;
    let every: Vec<u32> = (0..600).collect();
    let decoded = tokenizer.decode(&every, SpecialTokens::Include)?;
    let mut stream = tokenizer.stream(SpecialTokens::Include);
    for id in every {
        stream.push(id)?;
    }
    stream.finish()?;
    Ok(decoded)
}

/// The words of an error and of its causes.
fn words(error: &TokenizerError) -> String {
    let mut words = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        words = format!("{words}: {error}");
        cause = error.source();
    }
    words
}

/// A panic that was caught: printed all the same, and the end of a program that is built to end at one.
const CAUGHT: &str = "the library that runs the tokenizer failed";

/// Parts that the library panics at, or that take gigabytes: each is refused by name, before the library reads it.
#[test]
fn what_the_library_panics_at_is_refused_before() {
    let charsmap = |map: Value| json!({"type": "Precompiled", "precompiled_charsmap": map});
    let template = |single: Value, tokens: Value| json!({"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": tokens});
    let a = json!({"Sequence": {"id": "A", "type_id": 0}});
    let b = json!({"Sequence": {"id": "B", "type_id": 0}});
    let lost = json!({"SpecialToken": {"id": "<zz>", "type_id": 0}});
    let replaces = |part: &str, pattern: Value, content: &str, count: usize| {
        let one = json!({"type": "Replace", "pattern": pattern, "content": content});
        json!({"type": "Sequence", part: vec![one; count]})
    };
    let ten = "a".repeat(10);
    let cases = [
        ("normalizer", charsmap(json!("")), "precompiled_charsmap"),
        (
            "normalizer",
            charsmap(json!("AAAA")),
            "precompiled_charsmap",
        ),
        (
            "normalizer",
            charsmap(json!("EAAAAP///////////////////////////////w==")),
            "precompiled_charsmap",
        ),
        (
            "normalizer",
            charsmap(json!("no base64")),
            "precompiled_charsmap",
        ),
        ("normalizer", charsmap(json!(null)), "precompiled_charsmap"),
        ("normalizer", charsmap(json!(3)), "precompiled_charsmap"),
        (
            "normalizer",
            charsmap(json!([1, 2])),
            "precompiled_charsmap",
        ),
        (
            "normalizer",
            json!({"type": "Precompiled"}),
            "precompiled_charsmap",
        ),
        (
            "normalizer",
            json!({"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": [charsmap(json!(""))]}]}),
            "precompiled_charsmap",
        ),
        (
            "normalizer",
            replaces("normalizers", json!({"String": "a"}), &ten, 11),
            "100000000000 times",
        ),
        (
            "normalizer",
            replaces("normalizers", json!({"Regex": "x*"}), "yyyyyyy", 8),
            "times",
        ),
        (
            "normalizer",
            replaces("normalizers", json!({"String": ""}), "yyyyyyy", 8),
            "times",
        ),
        (
            "normalizer",
            json!({"type": "Sequence", "normalizers": vec![json!({"type": "Prepend", "prepend": "a".repeat(10_000)}); 200]}),
            "2000000 bytes",
        ),
        (
            "decoder",
            replaces("decoders", json!({"String": "a"}), &ten, 10),
            "10000000000 times",
        ),
        (
            "model",
            json!({"continuing_subword_prefix": "xxxxxxxxxxxxxxxx"}),
            "merge 0",
        ),
        (
            "model",
            json!({"continuing_subword_prefix": "#", "vocab": {"a": 0, "é": 1, "aé": 2}, "merges": [["a", "é"]]}),
            "merge 0",
        ),
        ("model", json!({"merges": [["a", "zz"]]}), "merge 0"),
        (
            "model",
            json!({"vocab": {"a": 4294967295_u32, "b": 1, "aa": 2}}),
            "4294967295",
        ),
        (
            "added_tokens",
            json!([{"id": 4294967295_u32, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}]),
            "4294967295",
        ),
        (
            "post_processor",
            template(json!([lost, a]), json!({})),
            "<zz>",
        ),
        (
            "post_processor",
            template(json!([a, b]), json!({})),
            "second text",
        ),
        (
            "post_processor",
            json!({"type": "Sequence", "processors": [template(json!([a, b]), json!({}))]}),
            "second text",
        ),
        (
            "post_processor",
            json!({"type": "Sequence", "processors": vec![template(json!([a, a, a]), json!({})); 2]}),
            "more than one template",
        ),
        (
            "pre_tokenizer",
            json!({"type": "FixedLength", "length": 0}),
            "length 0",
        ),
        (
            "pre_tokenizer",
            json!({"type": "Sequence", "pretokenizers": [{"type": "Sequence", "pretokenizers": [{"type": "FixedLength", "length": 0}]}]}),
            "length 0",
        ),
    ];
    for (part, value, expected) in cases {
        let file = file(part, value);
        let error = used(file.as_bytes(), "aaé").unwrap_err();
        assert!(
            matches!(error, TokenizerError::Invalid { .. }),
            "{file}: {error:?}"
        );
        let words = words(&error);
        assert!(
            words.contains(expected) && !words.contains(CAUGHT),
            "{expected}: {words}"
        );
    }
}

/// A part that is no JSON, or JSON that nobody can hold: the library expects that it can read it.
#[test]
fn parts_that_cannot_be_read_are_refused_before() {
    let whole = file("decoder", json!(null));
    let parts = [
        "{".to_owned(),
        "[".repeat(200),
        format!("{}{}", "[".repeat(200), "]".repeat(200)),
        format!("{}1{}", "{\"a\":".repeat(200), "}".repeat(200)),
        "1e999".to_owned(),
        r#""\ud800""#.to_owned(),
        r#"{"type": "Replace", "content": "\udc00"}"#.to_owned(),
        "tru".to_owned(),
    ];
    for part in ["decoder", "normalizer", "pre_tokenizer", "post_processor"] {
        for value in &parts {
            let file = whole.replace(&format!("\"{part}\":null"), &format!("\"{part}\":{value}"));
            assert_ne!(file, whole);
            let error = used(file.as_bytes(), "aab").unwrap_err();
            let words = words(&error);
            assert!(!words.contains(CAUGHT), "{part} {value}: {words}");
        }
        let file = whole.replace(&format!("\"{part}\":null"), &format!("\"{part}\":\"x\""));
        let mut bytes = file.into_bytes();
        let at = bytes
            .windows(3)
            .position(|three| three == b"\"x\"")
            .unwrap();
        bytes[at + 1] = 0xFF;
        let error = used(&bytes, "aab").unwrap_err();
        assert!(!words(&error).contains(CAUGHT), "{part}: {error:?}");
    }
}

/// Odd, and no reason to refuse or to panic: ends at a result or an error of encoding.
#[test]
fn odd_files_are_used_or_refused() {
    let split = |regex: String| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    let word = |id: u32, content: &str| json!({"id": id, "content": content, "single_word": true, "lstrip": true, "rstrip": true, "normalized": true, "special": false});
    let unigram = |vocab: Value| json!({"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": false, "merges": null});
    let cases = [
        ("pre_tokenizer", split("(a+)+$".to_owned())),
        ("pre_tokenizer", split("(?=(a|aa)+$)b|x".to_owned())),
        (
            "pre_tokenizer",
            split(format!("{}a{}", "(".repeat(10_000), ")".repeat(10_000))),
        ),
        ("pre_tokenizer", split(String::new())),
        ("pre_tokenizer", split("(?<=a*)b".to_owned())),
        ("pre_tokenizer", split("(".to_owned())),
        (
            "pre_tokenizer",
            json!({"type": "Metaspace", "replacement": "a", "prepend_scheme": "always", "split": true}),
        ),
        (
            "pre_tokenizer",
            json!({"type": "FixedLength", "length": u64::MAX}),
        ),
        ("pre_tokenizer", json!({"type": "NoSuchThing"})),
        (
            "normalizer",
            json!({"type": "Replace", "pattern": {"Regex": "x*"}, "content": "yy"}),
        ),
        (
            "normalizer",
            json!({"type": "Strip", "strip_left": true, "strip_right": true}),
        ),
        ("normalizer", json!(3)),
        (
            "post_processor",
            json!({"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}}),
        ),
        (
            "post_processor",
            json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [], "special_tokens": {"x": {"id": "x", "ids": [4294967295_u32], "tokens": ["x"]}}}),
        ),
        (
            "post_processor",
            json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [], "special_tokens": {"x": {"id": "x", "ids": [1, 2, 3], "tokens": []}}}),
        ),
        (
            "post_processor",
            json!({"type": "BertProcessing", "sep": ["x", 9], "cls": ["y", 99]}),
        ),
        (
            "decoder",
            json!({"type": "CTC", "pad_token": "a", "word_delimiter_token": "b", "cleanup": true}),
        ),
        (
            "decoder",
            json!({"type": "CTC", "pad_token": "", "word_delimiter_token": "", "cleanup": true}),
        ),
        (
            "decoder",
            json!({"type": "WordPiece", "prefix": "", "cleanup": true}),
        ),
        (
            "decoder",
            json!({"type": "Metaspace", "replacement": "a", "prepend_scheme": "never", "split": true}),
        ),
        ("decoder", json!({"type": "Sequence", "decoders": []})),
        ("decoder", json!("text")),
        (
            "truncation",
            json!({"direction": "Right", "max_length": 0, "strategy": "LongestFirst", "stride": 5}),
        ),
        (
            "padding",
            json!({"strategy": {"Fixed": 4294967296_u64}, "direction": "Right", "pad_to_multiple_of": 0, "pad_id": 0, "pad_type_id": 0, "pad_token": "x"}),
        ),
        ("added_tokens", json!([word(3, " ")])),
        ("added_tokens", json!([word(3, "")])),
        (
            "added_tokens",
            json!([word(0, "b"), word(0, "c"), word(9, "a")]),
        ),
        (
            "added_tokens",
            Value::from(
                (0..2_000)
                    .map(|id| word(3 + id, &format!("t{id}")))
                    .collect::<Vec<_>>(),
            ),
        ),
        ("model", json!({"dropout": 2.0})),
        ("model", json!({"dropout": -1.0})),
        ("model", json!({"vocab": {}, "merges": []})),
        (
            "model",
            json!({"vocab": {"a": 0, "b": 0, "": 1}, "merges": []}),
        ),
        (
            "model",
            json!({"unk_token": "zz", "fuse_unk": true, "byte_fallback": true}),
        ),
        (
            "model",
            json!({"end_of_word_suffix": "é", "vocab": {"aé": 0}, "merges": []}),
        ),
        (
            "model",
            json!({"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": {"a": 0}, "merges": null}),
        ),
        (
            "model",
            json!({"type": "WordLevel", "unk_token": "zz", "vocab": {"a": 7}, "merges": null}),
        ),
        ("model", unigram(json!([["a", -1.0], ["", 0.0]]))),
        ("model", unigram(json!([]))),
        (
            "model",
            unigram(json!([["a", 1e308], ["aa", 1e308], ["b", -1e308]])),
        ),
        ("model", json!({"type": "NoSuchModel"})),
    ];
    for (part, value) in cases {
        let file = file(part, value);
        for text in [
            "aab",
            "",
            "é \u{1F600}",
            &"a".repeat(5_000),
            " a     b ",
            "t1 t2",
        ] {
            if let Err(error) = used(file.as_bytes(), text) {
                let words = words(&error);
                assert!(!words.contains(CAUGHT), "{file} {text:?}: {words}");
            }
        }
    }
}

/// A decoder that cuts more letters off than a token has panics, and whether it does follows from the ids alone. What no check
/// of the file can know is caught.
#[test]
fn a_panic_of_the_library_is_an_error() {
    for decoder in [
        json!({"type": "Strip", "content": "a", "start": 0, "stop": 3}),
        json!({"type": "Strip", "content": "a", "start": u64::MAX, "stop": u64::MAX}),
    ] {
        let file = file("decoder", decoder);
        let tokenizer = Tokenizer::from_bytes(TokenizerFiles {
            tokenizer_json: Some(file.as_bytes()),
            ..TokenizerFiles::default()
        });
        let tokenizer = tokenizer.unwrap();
        let whole = tokenizer.decode(&[0], SpecialTokens::Include);
        let streamed = tokenizer.stream(SpecialTokens::Include).push(0);
        for error in [whole.unwrap_err(), streamed.unwrap_err()] {
            assert!(matches!(error, TokenizerError::Decode { .. }), "{error:?}");
            assert!(words(&error).contains(CAUGHT), "{error:?}");
        }
        let text = tokenizer.decode(&[1], SpecialTokens::Include);
        assert_eq!(text.unwrap(), "b");
    }
}

/// A download that ended early and a disk that lost a bit. 55 of 249 cuts of such a file ended a process once.
#[test]
fn cut_and_flipped_files_are_used_or_refused() {
    let mut refused = 0;
    for name in ["bytelevel", "metaspace"] {
        let whole = fs::read(golden().join("tokenizer").join(name).join("tokenizer.json")).unwrap();
        let model = whole
            .windows(7)
            .position(|seven| seven == b"\"model\"")
            .unwrap();
        // Everywhere in the part before the vocabulary, which has all that the library panics at.
        let cuts = (0..model)
            .step_by(3)
            .chain((model..whole.len()).step_by(1009));
        for cut in cuts {
            let error = used(&whole[..cut], "ab").unwrap_err();
            assert!(
                !words(&error).contains(CAUGHT),
                "{name} cut at {cut}: {error:?}"
            );
        }
        let mut random = 9_u64;
        for _ in 0..100 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let mut bytes = whole.clone();
            let reach = if random & 1 == 0 { model } else { bytes.len() };
            let at = (random >> 33) as usize % reach;
            bytes[at] ^= 1 << (random >> 8 & 7);
            if let Err(error) = used(&bytes, "fn main() {\n} é") {
                refused += 1;
                assert!(
                    !words(&error).contains(CAUGHT),
                    "{name} bit of {at}: {error:?}"
                );
            }
        }
    }
    assert!(refused > 60, "{refused}");
}

/// The other files of a tokenizer, cut everywhere and with each byte changed.
#[test]
fn small_files_are_used_or_refused() {
    let vocab = br#"{"a": 0, "b": 1, "ab": 2, "<s>": 3}"#.as_slice();
    let merges = b"#version: 0.2\na b\n".as_slice();
    let config = br#"{"tokenizer_class": "GPT2Tokenizer", "bos_token": "<s>", "clean_up_tokenization_spaces": true, "added_tokens_decoder":
        {"4": {"content": "<x>", "lstrip": true, "special": true}}, "extra_special_tokens": ["<y>"], "chat_template": "{{ messages }}"}"#.as_slice();
    let map = br#"{"eos_token": {"content": "</s>", "normalized": true}, "additional_special_tokens": ["<q>"]}"#.as_slice();
    let added = br#"{"<x>": 4, "<z>": 9}"#.as_slice();
    let tiktoken = b"YQ== 0\nYg== 1\nYWI= 2\n".as_slice();
    let template = br#"{"chat_template": [{"name": "default", "template": "x"}]}"#.as_slice();
    let pairs = TokenizerFiles {
        vocab_json: Some(vocab),
        merges_txt: Some(merges),
        config: Some(config),
        special_tokens_map: Some(map),
        added_tokens: Some(added),
        chat_template_json: Some(template),
        ..TokenizerFiles::default()
    };
    let check = |files: TokenizerFiles<'_>| {
        let found = Tokenizer::from_bytes(files).and_then(|tokenizer| {
            let ids = tokenizer.encode("ab <x> é", SpecialTokens::Include)?;
            tokenizer.decode(&ids, SpecialTokens::Include)
        });
        if let Err(error) = found {
            assert!(!words(&error).contains(CAUGHT), "{error:?} of {files:?}");
        }
    };
    let plain = TokenizerFiles {
        config: Some(br#"{"tokenizer_class": "LlamaTokenizer"}"#),
        ..TokenizerFiles::default()
    };
    let change = |whole: &[u8], check: &dyn Fn(&[u8])| {
        for at in 0..whole.len() {
            check(&whole[..at]);
            for change in [0x01, 0x80] {
                let mut bytes = whole.to_vec();
                bytes[at] ^= change;
                check(&bytes);
            }
        }
    };
    change(vocab, &|bytes| {
        check(TokenizerFiles {
            vocab_json: Some(bytes),
            ..pairs
        });
    });
    change(merges, &|bytes| {
        check(TokenizerFiles {
            merges_txt: Some(bytes),
            ..pairs
        });
    });
    change(config, &|bytes| {
        check(TokenizerFiles {
            config: Some(bytes),
            ..pairs
        });
    });
    change(map, &|bytes| {
        check(TokenizerFiles {
            special_tokens_map: Some(bytes),
            config: None,
            ..pairs
        });
    });
    change(added, &|bytes| {
        check(TokenizerFiles {
            added_tokens: Some(bytes),
            ..pairs
        });
    });
    change(template, &|bytes| {
        check(TokenizerFiles {
            chat_template_json: Some(bytes),
            ..pairs
        });
    });
    change(tiktoken, &|bytes| {
        check(TokenizerFiles {
            vocabulary: Some(("tokenizer.model", bytes)),
            ..plain
        });
    });
    let piece =
        b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02\n\x08\n\x01a\x15\0\0\0\0\n\x08\n\x01b\x15\0\0\0\0"
            .as_slice();
    change(piece, &|bytes| {
        check(TokenizerFiles {
            vocabulary: Some(("tokenizer.model", bytes)),
            ..plain
        });
    });
}

/// A file of a gigabyte is no list of special tokens.
#[test]
fn large_files_are_refused_with_both_sizes() {
    let large = vec![b' '; (16 << 20) + 1];
    let files = TokenizerFiles {
        at: "m",
        tokenizer_json: Some(b"{}"),
        config: Some(&large),
        ..TokenizerFiles::default()
    };
    let error = words(&Tokenizer::from_bytes(files).unwrap_err());
    assert_eq!(
        error,
        "m/tokenizer_config.json cannot be read: the file has 16777217 bytes, at most 16777216 are read"
    );
}
