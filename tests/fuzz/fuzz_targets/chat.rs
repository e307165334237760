//! Chat templates: whatever a template does, the text is bounded, and the same again.
//!
//! Input: `chat_template.jinja`.

#![cfg_attr(fuzzing, no_main)]

use firebox::text::{GenerationPrompt, Message, Tokenizer, TokenizerFiles};

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| run(data));

/// The smallest tokenizer: each run is about the template.
const TOKENIZER: &[u8] =
    br#"{"model":{"type":"WordLevel","vocab":{"a":0,"<unk>":1},"unk_token":"<unk>"}}"#;

pub(crate) fn run(template: &[u8]) {
    let files = TokenizerFiles {
        tokenizer_json: Some(TOKENIZER),
        config: Some(br#"{"bos_token":"<s>","eos_token":"</s>"}"#),
        chat_template_jinja: Some(template),
        ..TokenizerFiles::default()
    };
    let Ok(tokenizer) = Tokenizer::from_bytes(files) else {
        return;
    };
    let messages = [
        Message::system("be \u{e9} <b>"),
        Message::user("hi\n{{ x }}"),
        Message::assistant("yo"),
    ];
    for prompt in [GenerationPrompt::Add, GenerationPrompt::Omit] {
        match tokenizer.apply_chat(&messages, prompt) {
            Ok(text) => assert!(text.len() <= 16 << 20, "{} bytes", text.len()),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}
