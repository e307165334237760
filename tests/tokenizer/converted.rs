//! Checkpoints without a `tokenizer.json`, and tokens that it lacks, against transformers.

use std::{collections::BTreeMap, fs};

use firebox::text::{SpecialTokens, Tokenizer, TokenizerError, TokenizerFiles};
use serde_json::{Value, json};

use super::{golden, ids};

/// The files of a checkpoint, by name.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// The tokenizer of some files, by the names that they have in a checkpoint.
pub(crate) fn tokenizer(files: &Files) -> Result<Tokenizer, TokenizerError> {
    let read = |file: &str| files.get(file).map(Vec::as_slice);
    let names = [
        "tekken.json",
        "tokenizer.model",
        "tiktoken.model",
        "spiece.model",
        "qwen.tiktoken",
        "vocab.txt",
    ];
    let vocabulary = names.into_iter().find_map(|file| Some((file, read(file)?)));
    let model: Option<Value> =
        read("config.json").map(|bytes| serde_json::from_slice(bytes).unwrap());
    Tokenizer::from_bytes(TokenizerFiles {
        tokenizer_json: read("tokenizer.json"),
        vocabulary,
        vocab_json: read("vocab.json"),
        merges_txt: read("merges.txt"),
        config: read("tokenizer_config.json"),
        special_tokens_map: read("special_tokens_map.json"),
        added_tokens: read("added_tokens.json"),
        model_config: model.as_ref(),
        ..TokenizerFiles::default()
    })
}

/// Some files, and the answers of the tokenizer that transformers made of them.
struct Case {
    name: String,
    files: Files,
    golden: Value,
}

fn cases() -> (Vec<String>, Vec<Case>) {
    let folder = golden().join("tokenizer/converted");
    let file = fs::read(folder.join("cases.json")).unwrap();
    let file: Value = serde_json::from_slice(&file).unwrap();
    let texts = file["texts"].as_array().unwrap().iter();
    let texts = texts.map(|text| text.as_str().unwrap().to_owned());
    let cases = file["cases"].as_array().unwrap().iter().map(|golden| {
        let mut files = Files::new();
        for (name, source) in golden["files"].as_object().unwrap() {
            let bytes = fs::read(folder.join(source.as_str().unwrap())).unwrap();
            files.insert(name.clone(), bytes);
        }
        for (name, value) in golden["json"].as_object().unwrap() {
            files.insert(name.clone(), value.to_string().into_bytes());
        }
        Case {
            name: golden["name"].as_str().unwrap().to_owned(),
            files,
            golden: golden.clone(),
        }
    });
    (texts.collect(), cases.collect())
}

/// The files of one case.
pub(crate) fn files(name: &str) -> Files {
    let (_, cases) = cases();
    let case = cases.into_iter().find(|case| case.name == name);
    case.unwrap_or_else(|| panic!("no case {name}")).files
}

/// A class that is not the one of transformers, a rule of it that differs, a merge in another order, an added token with
/// another id or property: each changes ids of these texts, or the texts of these ids.
#[test]
fn ids_and_texts_are_those_of_transformers() {
    let (texts, cases) = cases();
    assert_eq!((texts.len(), cases.len()), (50, 35));
    for Case {
        name,
        files,
        golden,
    } in &cases
    {
        let tokenizer = tokenizer(files).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        let class = golden["class"].as_str().unwrap();
        let made_from = tokenizer.made_from();
        assert!(
            made_from == "tokenizer.json" || made_from.ends_with(class),
            "{name}: {made_from}, {class}"
        );
        let id = |field: &str| golden[field].as_u64().map(|id| id as u32);
        assert_eq!(Some(tokenizer.vocab_size() as u32), id("size"), "{name}");
        assert_eq!(tokenizer.bos(), id("bos"), "{name}");
        assert_eq!(tokenizer.eos_ids(), id("eos").as_slice(), "{name}");
        assert_eq!(tokenizer.pad(), id("pad"), "{name}");
        for (at, text) in texts.iter().enumerate() {
            let of = |field: &str| &golden[field][at];
            let with = ids(of("ids"));
            let plain = match of("plain") {
                Value::Null => with.clone(),
                plain => ids(plain),
            };
            let encode = |special| tokenizer.encode(text, special).unwrap();
            assert_eq!(encode(SpecialTokens::Include), with, "{name}: {text:?}");
            assert_eq!(encode(SpecialTokens::Omit), plain, "{name}: {text:?}");
            for (special, field) in [
                (SpecialTokens::Omit, "omit"),
                (SpecialTokens::Include, "include"),
            ] {
                let expected = of(field).as_str().unwrap_or(text);
                let decoded = tokenizer.decode(&with, special).unwrap();
                assert_eq!(decoded, expected, "{name}: {field} {text:?}");
                let mut stream = tokenizer.stream(special);
                let pieces = with.iter().map(|id| stream.push(*id).unwrap());
                let mut streamed: String = pieces.flatten().collect();
                streamed += &stream.finish().unwrap();
                assert_eq!(streamed, expected, "{name}: stream, {field} {text:?}");
            }
        }
    }
}

fn with(mut files: Files, name: &str, bytes: impl AsRef<[u8]>) -> Files {
    files.insert(name.to_owned(), bytes.as_ref().to_vec());
    files
}

fn without(mut files: Files, name: &str) -> Files {
    files.remove(name).unwrap();
    files
}

/// An error and its causes, in one line.
fn refusal(files: &Files) -> String {
    let error = tokenizer(files).expect_err("refused");
    let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |error| {
        error.source()
    });
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

/// A file that is not converted is refused by its name: a guess would give text wrong ids, and a model answers those with
/// nonsense.
#[test]
fn what_is_not_converted_is_refused_by_name() {
    let config = |class: &str| json!({"tokenizer_class": class}).to_string();
    let cases: Vec<(Files, &[&str])> = vec![
        (
            Files::new(),
            &["tokenizer.json", "tokenizer.model", "vocab.json"],
        ),
        (
            with(
                files("llama"),
                "tokenizer_config.json",
                config("XLMRobertaTokenizerFast"),
            ),
            &[
                "tokenizer_config.json",
                "XLMRobertaTokenizerFast",
                "save_pretrained",
            ],
        ),
        // Pairs whose class does not say how text is cut before they merge.
        (
            with(
                with(files("gpt2"), "config.json", r#"{"model_type": "llama"}"#),
                "tokenizer_config.json",
                config("PreTrainedTokenizerFast"),
            ),
            &["vocab.json", "tokenizer_class", "Qwen2Tokenizer"],
        ),
        (
            with(Files::new(), "vocab.txt", "[PAD]\n[UNK]\n"),
            &["vocab.txt", "WordPiece", "save_pretrained"],
        ),
        (
            without(files("gpt2"), "merges.txt"),
            &["vocab.json", "merges.txt"],
        ),
        (
            without(files("gpt2"), "vocab.json"),
            &["merges.txt", "vocab.json"],
        ),
        (
            with(
                files("llama"),
                "tokenizer_config.json",
                config("GPT2Tokenizer"),
            ),
            &["tokenizer.model", "sentencepiece", "GPT2Tokenizer"],
        ),
        (
            with(
                files("llama"),
                "tokenizer.model",
                "version https://git-lfs.github.com/spec/v1\noid",
            ),
            &["tokenizer.model", "git lfs pull"],
        ),
    ];
    for (files, parts) in cases {
        let said = refusal(&files);
        for part in parts {
            assert!(said.contains(part), "{said}, without {part}");
        }
    }
}

/// transformers needs a `tokenizer.json` with these types; the class that `tokenizer_config.json` names is enough here.
#[test]
fn the_named_class_decides_where_transformers_has_none() {
    for class in ["GPT2Tokenizer", "Qwen2TokenizerFast"] {
        let config = json!({"tokenizer_class": class}).to_string();
        let granite = with(files("gpt2"), "config.json", r#"{"model_type": "granite"}"#);
        let made = tokenizer(&with(granite, "tokenizer_config.json", config)).unwrap();
        let class = class.trim_end_matches("Fast");
        assert_eq!(
            made.made_from(),
            format!("vocab.json and merges.txt (byte pairs) as {class}")
        );
    }
}

/// The fault of a file stands in the error, with its place. The library that builds tokenizers panics at some of these
/// files.
#[test]
fn a_broken_vocabulary_is_refused_with_its_place() {
    let llama = files("llama")["tokenizer.model"].clone();
    let ranks = String::from_utf8(files("ranks")["tokenizer.model"].clone()).unwrap();
    let lines = |from: usize| ranks.lines().skip(from).collect::<Vec<_>>().join("\n");
    let model = |bytes: &[u8]| with(files("llama"), "tokenizer.model", bytes);
    let ranks = |text: String| with(files("ranks"), "tokenizer.model", text);
    let vocab = |value: Value| with(files("gpt2"), "vocab.json", value.to_string());
    let pair = json!({"a": 0, "b": 1, "c": 2});
    let merges = |text: &str| with(vocab(pair.clone()), "merges.txt", text);
    let tekken = |change: &dyn Fn(&mut Value)| {
        let mut file = serde_json::from_slice(&files("tekken")["tekken.json"]).unwrap();
        change(&mut file);
        with(files("tekken"), "tekken.json", file.to_string())
    };
    let far = json!({"added_tokens_decoder": {"4000000000": {"content": "<x>"}}}).to_string();
    let cases: Vec<(Files, &[&str])> = vec![
        (
            model(&llama[..llama.len() - 1]),
            &["tokenizer.model", "begins there"],
        ),
        (model(&[]), &["tokenizer.model", "no pieces"]),
        (
            // Of two settings of the normalizer the later one counts: a map whose only unit leads out of it.
            with(
                files("own_pairs"),
                "tokenizer.model",
                [
                    &files("own_pairs")["tokenizer.model"],
                    &b"\x1A\x0A\x12\x08\x04\0\0\0\0\0\x04\0"[..],
                ]
                .concat(),
            ),
            &["tokenizer.model", "precompiled_charsmap", "unit 511"],
        ),
        (
            model(b"hello"),
            &["tokenizer.model", "no sentencepiece model"],
        ),
        (
            model(&vec![0; (16 << 20) + 1]),
            &["tokenizer.model", "16777217", "16777216"],
        ),
        (ranks(lines(1)), &["tokenizer.model", "rank 0"]),
        (ranks(format!("{}\nYWI= 7", lines(0))), &["rank 7 again"]),
        (
            with(files("ranks"), "tokenizer_config.json", far),
            &["4000000000", "420 tokens", "65536"],
        ),
        (
            tekken(&|file| file["vocab"][3]["token_bytes"] = "?".into()),
            &["tekken.json", "`token_bytes` of entry 3"],
        ),
        (
            tekken(&|file| file["special_tokens"][3]["rank"] = 9.into()),
            &["tekken.json", "`special_tokens`", "0 to 7"],
        ),
        (
            tekken(&|file| file["config"]["default_num_special_tokens"] = 7.into()),
            &["`default_num_special_tokens` is 7", "8 are listed"],
        ),
        (
            tekken(&|file| file["config"]["default_vocab_size"] = 11.into()),
            &["`default_vocab_size` is 11", "12 of them"],
        ),
        (
            tekken(&|file| file["config"]["pattern"] = "(".into()),
            &["tekken.json"],
        ),
        (
            vocab(json!({"a": 0, "b": 0})),
            &["vocab.json", "\"a\"", "\"b\"", "id 0"],
        ),
        (
            vocab(json!({"a": 4_000_000_000_u32})),
            &["\"a\"", "4000000000"],
        ),
        (vocab(json!({"a": -1})), &["vocab.json"]),
        (vocab(json!(["a"])), &["vocab.json"]),
        (
            merges("a b\n"),
            &["merges.txt", "\"a\" and \"b\"", "no \"ab\""],
        ),
        (merges("#version: 0.2\na b c\n"), &["merges.txt", "line 2"]),
        (
            with(vocab(pair.clone()), "merges.txt", b"\xFF"),
            &["merges.txt"],
        ),
    ];
    for (files, parts) in cases {
        let said = refusal(&files);
        for part in parts {
            assert!(said.contains(part), "{said}, without {part}");
        }
    }
}

type Change = dyn Fn(&mut Value);

/// The library panics at these, and a file from somewhere must not end a program.
#[test]
fn a_tokenizer_json_that_would_panic_is_refused() {
    let bytes = fs::read(golden().join("tokenizer/bytelevel/tokenizer.json")).unwrap();
    let whole: Value = serde_json::from_slice(&bytes).unwrap();
    let refused = |change: &Change| {
        let mut file = whole.clone();
        change(&mut file);
        let files = with(Files::new(), "tokenizer.json", file.to_string());
        refusal(&files)
    };
    let cases: [(&Change, &str); 4] = [
        (
            &|file| {
                file["model"]["vocab"] = json!({"aaa": 0, "bbb": 1});
                file["model"]["merges"] = json!([["aaa", "bbb"]]);
            },
            "no \"aaabbb\"",
        ),
        (
            &|file| {
                file["model"]["continuing_subword_prefix"] = "####".into();
                file["model"]["vocab"] = json!({"a": 0, "b": 1, "ab": 2});
                file["model"]["merges"] = json!(["a b"]);
            },
            "\"a\" and \"b\"",
        ),
        (
            &|file| {
                // One unit, whose offset is far behind it.
                let map = "BAAAAAAABAA=";
                file["normalizer"] = json!({"type": "Precompiled", "precompiled_charsmap": map});
            },
            "unit 0 of its trie leads to unit 511, there are 1",
        ),
        (
            &|file| file["added_tokens"][0]["id"] = u32::MAX.into(),
            "4294967295",
        ),
    ];
    for (change, part) in cases {
        let said = refused(change);
        assert!(
            said.contains(part) && said.starts_with("tokenizer.json"),
            "{said}"
        );
    }
}

/// Would catch a check that looks at one of two fields, and a library that takes the other.
#[test]
fn a_tokenizer_json_that_says_a_thing_twice_is_refused() {
    let text = fs::read_to_string(golden().join("tokenizer/bytelevel/tokenizer.json")).unwrap();
    let (_, fields) = text.split_once('{').unwrap();
    let doubled = format!("{{\"normalizer\": null, \"model\": {{}}, {fields}");
    let said = refusal(&with(Files::new(), "tokenizer.json", doubled));
    assert!(said.contains("duplicate field"), "{said}");
}

/// Files with bytes changed, cut and put in: each gives a tokenizer that works, or an error. Would catch a panic, and a
/// length that is believed.
#[test]
fn damaged_files_never_panic() {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut draw = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize % below
    };
    let mut refused = 0;
    let cases = [
        ("own_unigram", "tokenizer.model"),
        ("own_pairs", "tokenizer.model"),
        ("ranks_added", "tokenizer.model"),
        ("tekken", "tekken.json"),
        ("gpt2", "vocab.json"),
        ("gpt2", "merges.txt"),
    ];
    for (name, file) in cases {
        let whole = files(name);
        for _ in 0..50 {
            let mut bytes = whole[file].clone();
            // The map of characters is at the end of a model, and small: half of the changes are there.
            let from = [0, bytes.len() * 3 / 4][draw(2)];
            for _ in 0..=draw(3) {
                let at = from + draw(bytes.len() - from);
                match draw(4) {
                    0 => bytes.truncate(at.max(1)),
                    1 => bytes.insert(at, draw(256) as u8),
                    _ => bytes[at] = draw(256) as u8,
                }
                if bytes.len() <= from {
                    break;
                }
            }
            match tokenizer(&with(whole.clone(), file, bytes)) {
                Ok(tokenizer) => {
                    for text in ["the ﬁne 😀 \u{1}e\u{301}\tﷺ <user>", "  ſſ\u{a0}"] {
                        if let Ok(ids) = tokenizer.encode(text, SpecialTokens::Include) {
                            tokenizer.decode(&ids, SpecialTokens::Include).unwrap();
                        }
                    }
                }
                Err(_) => refused += 1,
            }
        }
    }
    assert!((30..300).contains(&refused), "{refused} of 300 are refused");
}
