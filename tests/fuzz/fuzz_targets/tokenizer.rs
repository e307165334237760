//! Files of tokenizers: ids stay within the vocabulary that the tokenizer tells of, and a text that is decoded at once is
//! the text that is decoded token by token.
//!
//! Input: a digit for the kind of file, the file, and after a byte `ff` the text to encode.

#![cfg_attr(fuzzing, no_main)]

use firebox::text::{SpecialTokens, Tokenizer, TokenizerFiles};

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| run(data));

const KINDS: [&str; 4] = [
    "tekken.json",
    "tokenizer.model",
    "tiktoken.model",
    "qwen.tiktoken",
];

pub(crate) fn run(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else {
        return;
    };
    let mut parts = data.splitn(2, |byte| *byte == 0xff);
    let file = parts.next().unwrap_or_default();
    let text = String::from_utf8_lossy(parts.next().unwrap_or(b"hello world"));
    let files = TokenizerFiles::default();
    let files = match kind {
        b'1'..=b'4' => TokenizerFiles {
            vocabulary: Some((KINDS[usize::from(kind - b'1')], file)),
            ..files
        },
        _ => TokenizerFiles {
            tokenizer_json: Some(file),
            ..files
        },
    };
    let tokenizer = match Tokenizer::from_bytes(files) {
        Ok(tokenizer) => tokenizer,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    // Ids that no vocabulary has.
    let _ = tokenizer.decode(&[0, 1, 2, u32::MAX], SpecialTokens::Include);
    let Ok(ids) = tokenizer.encode(&text, SpecialTokens::Include) else {
        return;
    };
    let Ok(whole) = tokenizer.decode(&ids, SpecialTokens::Omit) else {
        return;
    };
    let mut stream = tokenizer.stream(SpecialTokens::Omit);
    let mut streamed = String::new();
    for id in ids {
        match stream.push(id) {
            Ok(more) => streamed.extend(more),
            Err(_) => return,
        }
    }
    if let Ok(rest) = stream.finish() {
        streamed.push_str(&rest);
        assert_eq!(streamed, whole);
    }
}
