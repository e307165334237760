//! The files of a tokenizer, read.

use super::engine::Engine;
use crate::{
    error::Error,
    source::checkpoint::CHAT_TEMPLATES,
    text::{Tokenizer, TokenizerFiles},
};

/// Files of a vocabulary for checkpoints without a `tokenizer.json`, in the order in which they are looked for.
const VOCABULARIES: [&str; 5] = [
    "tekken.json",
    "tokenizer.model",
    "tiktoken.model",
    "spiece.model",
    "qwen.tiktoken",
];

impl Engine {
    /// Reads the tokenizer of the checkpoint. Of several vocabularies the first one counts.
    pub(super) fn tokenizer(&self) -> Result<Tokenizer, Error> {
        let files = self.checkpoint();
        let read = |file| files.read_optional(file);
        let tokenizer_json = read("tokenizer.json")?;
        let (mut vocabulary, mut vocab_json, mut merges_txt) = (None, None, None);
        if tokenizer_json.is_none() {
            for file in VOCABULARIES {
                if let Some(bytes) = read(file)? {
                    vocabulary = Some((file, bytes));
                    break;
                }
            }
            vocab_json = read("vocab.json")?;
            merges_txt = read("merges.txt")?;
            // A tokenizer of this file is refused by the name of the file.
            if vocabulary.is_none() && vocab_json.is_none() {
                vocabulary = read("vocab.txt")?.map(|bytes| ("vocab.txt", bytes));
            }
        }
        let templates = self.chat_templates()?;
        let templates: Vec<_> = templates
            .iter()
            .map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
            .collect();
        let tokenizer = Tokenizer::from_bytes(TokenizerFiles {
            at: &files.source().describe(),
            tokenizer_json: tokenizer_json.as_deref(),
            vocabulary: vocabulary
                .as_ref()
                .map(|(file, bytes)| (*file, bytes.as_slice())),
            vocab_json: vocab_json.as_deref(),
            merges_txt: merges_txt.as_deref(),
            config: read("tokenizer_config.json")?.as_deref(),
            special_tokens_map: read("special_tokens_map.json")?.as_deref(),
            added_tokens: read("added_tokens.json")?.as_deref(),
            chat_template_jinja: read("chat_template.jinja")?.as_deref(),
            additional_chat_templates: &templates,
            chat_template_json: read("chat_template.json")?.as_deref(),
            generation_config: files.generation_config(),
            model_config: Some(files.config()),
        })?;
        // The same each time.
        let _ = self.tokenizer.set(tokenizer.made_from().to_owned());
        Ok(tokenizer)
    }
    /// Names and bytes of the chat templates beside `chat_template.jinja`.
    fn chat_templates(&self) -> Result<Vec<(String, Vec<u8>)>, Error> {
        let checkpoint = self.checkpoint();
        let mut templates = Vec::new();
        for file in checkpoint.chat_templates()? {
            if let Some(bytes) = checkpoint.read_optional(&file)? {
                let name = file.trim_start_matches(CHAT_TEMPLATES);
                templates.push((name.trim_end_matches(".jinja").to_owned(), bytes));
            }
        }
        Ok(templates)
    }
}
