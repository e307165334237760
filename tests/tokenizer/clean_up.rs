//! `clean_up_tokenization_spaces`, against what transformers 5.23.0 gives.

use firebox::text::{SpecialTokens, Tokenizer, TokenizerFiles};
use serde_json::{Value, json};

const WORDS: [&str; 17] = [
    "it", "'s", "do", "n't", "we", "'ve", "I", "'m", "you", "'re", "'", ".", ",", "!", "?", "x",
    "end",
];

fn open(kind: &str, config: &Value) -> Tokenizer {
    let vocab: Value = WORDS
        .iter()
        .enumerate()
        .map(|(id, word)| (word.to_string(), json!(id)))
        .collect();
    let model = match kind {
        "BPE" => json!({"type": "BPE", "vocab": vocab, "merges": []}),
        kind => json!({"type": kind, "vocab": vocab, "unk_token": "x"}),
    };
    let file = json!({"version": "1.0", "model": model, "added_tokens": []}).to_string();
    Tokenizer::from_bytes(TokenizerFiles {
        tokenizer_json: Some(file.as_bytes()),
        config: Some(config.to_string().as_bytes()),
        ..TokenizerFiles::default()
    })
    .unwrap()
}

/// Spaces that WordPiece puts between words belong to no text; those of byte pairs do.
#[test]
fn spaces_are_those_of_transformers() {
    let asks = json!({"clean_up_tokenization_spaces": true});
    let forced = json!({"clean_up_tokenization_spaces": true,
        "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output": true});
    let ids: Vec<u32> = (0..WORDS.len() as u32).collect();
    let plain = "it 's do n't we 've I 'm you 're ' . , ! ? x end";
    let clean = "it's don't we've I'm you're '.,!? x end";
    let cases = [
        ("WordLevel", asks.clone(), clean),
        ("WordLevel", json!({}), plain),
        (
            "WordLevel",
            json!({"clean_up_tokenization_spaces": false}),
            plain,
        ),
        ("BPE", asks, plain),
        ("BPE", forced, clean),
    ];
    for (kind, config, expected) in cases {
        let tokenizer = open(kind, &config);
        let text = tokenizer.decode(&ids, SpecialTokens::Include).unwrap();
        assert_eq!(text, expected, "{kind} {config}");
        let mut stream = tokenizer.stream(SpecialTokens::Include);
        let mut joined = String::new();
        for id in &ids {
            joined += &stream.push(*id).unwrap().unwrap_or_default();
        }
        joined += &stream.finish().unwrap();
        assert_eq!(joined, expected, "{kind} {config}");
    }
}
