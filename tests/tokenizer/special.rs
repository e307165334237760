//! Special tokens and the end, wherever a file says them.

use std::fs;

use firebox::text::{Tokenizer, TokenizerError, TokenizerFiles};
use serde_json::{Value, json};

use super::golden;

/// Where generation stops: the first file of the list that says so, as in `generate` of transformers, which asks the
/// tokenizer last. Taking the tokenizer's word before generation_config.json makes Llama 3 talk on past the end of its turn,
/// before config.json a model whose config.json lists two ends.
#[test]
fn the_end_is_where_the_first_file_says() {
    let bytes = fs::read(golden().join("tokenizer/bytelevel/tokenizer.json")).unwrap();
    let eos = |generation: Option<Value>, config: Option<Value>, model: Option<Value>| {
        let config = config.map(|config| config.to_string());
        Tokenizer::from_bytes(TokenizerFiles {
            tokenizer_json: Some(&bytes),
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
    assert_eq!(
        eos(None, named(), Some(json!({"eos_token_id": [7, 1]}))),
        [7, 1]
    );
    assert_eq!(eos(None, named(), Some(json!({"eos_token_id": null}))), [1]);
    // The text model of a model of text and pictures; the outer configuration counts first.
    let wrapped = json!({"text_config": {"eos_token_id": 7}});
    assert_eq!(eos(None, named(), Some(wrapped)), [7]);
    let both = json!({"eos_token_id": 9, "text_config": {"eos_token_id": 7}});
    assert_eq!(eos(None, named(), Some(both)), [9]);
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
        tokenizer_json: Some(&bytes),
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

/// As transformers reads them: the older file wins, unless the newer one lists tokens by id. A file that is forgotten, or
/// one that counts though it went stale, gives a model the wrong beginning.
#[test]
fn special_tokens_map_counts_where_no_tokens_are_listed_by_id() {
    let bytes = fs::read(golden().join("tokenizer/bytelevel/tokenizer.json")).unwrap();
    let open = |config: Value| {
        Tokenizer::from_bytes(TokenizerFiles {
            tokenizer_json: Some(&bytes),
            config: Some(config.to_string().as_bytes()),
            special_tokens_map: Some(
                br#"{"bos_token": "<|end|>", "pad_token": {"content": "<|pad|>"}}"#,
            ),
            ..TokenizerFiles::default()
        })
        .unwrap()
    };
    let older = open(json!({"bos_token": "<|begin|>", "pad_token": null}));
    assert_eq!((older.bos(), older.pad()), (Some(1), Some(2)));
    let listed = json!({"bos_token": "<|begin|>", "added_tokens_decoder": {}});
    let listed = open(listed);
    assert_eq!((listed.bos(), listed.pad()), (Some(0), None));
}
