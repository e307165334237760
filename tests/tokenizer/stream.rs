//! Text that comes token by token is the text of all of them.

use firebox::text::{SpecialTokens, Tokenizer};
use serde_json::{Value, json};

use super::{encodings, from_json, golden, ids, open};

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
