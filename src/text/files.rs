//! The files of a tokenizer.

use std::fmt;

use serde_json::Value;

use super::error::{BoxError, TokenizerError};
use crate::source::json;

/// Bytes of the largest `tokenizer.json`: 35 MB in those in use.
const JSON_BYTES_MAX: usize = 128 << 20;

/// Bytes of the largest `vocab.json` or `merges.txt`: 10 MB in those in use.
const PAIRS_BYTES_MAX: usize = 32 << 20;

/// Bytes of the largest file of tokens beside the vocabulary: 2 MB in those in use.
const CONFIG_BYTES_MAX: usize = 16 << 20;

/// The files that describe a tokenizer, as the checkpoint has them. One vocabulary is required: `tokenizer_json`, else
/// `vocabulary`, else `vocab_json` with `merges_txt`.
///
/// ```
/// # use firebox::text::TokenizerFiles;
/// # let tokenizer_json = b"{}";
/// let files = TokenizerFiles { tokenizer_json: Some(tokenizer_json), ..TokenizerFiles::default() };
/// ```
#[derive(Clone, Copy, Default)]
pub struct TokenizerFiles<'a> {
    /// Where the files are, for messages: a folder, `org/name@revision`. Empty: they say the names alone.
    pub at: &'a str,
    /// `tokenizer.json`: everything about how text is cut. The other vocabularies are not looked at where it is given.
    pub tokenizer_json: Option<&'a [u8]>,
    /// The name and the bytes of a file of sentencepiece, tiktoken or Mistral: `tekken.json`, `tokenizer.model`,
    /// `tiktoken.model`, `spiece.model`, `qwen.tiktoken`.
    pub vocabulary: Option<(&'a str, &'a [u8])>,
    /// `vocab.json`: tokens and their ids.
    pub vocab_json: Option<&'a [u8]>,
    /// `merges.txt`: the pairs of tokens that merge, in order.
    pub merges_txt: Option<&'a [u8]>,
    /// `tokenizer_config.json`: names of the special tokens, tokens beside the vocabulary, and often the chat template.
    pub config: Option<&'a [u8]>,
    /// `special_tokens_map.json`: an older place for names of special tokens.
    pub special_tokens_map: Option<&'a [u8]>,
    /// `added_tokens.json`: an older place for tokens beside the vocabulary.
    pub added_tokens: Option<&'a [u8]>,
    /// `chat_template.jinja`: where newer checkpoints keep the chat template.
    pub chat_template_jinja: Option<&'a [u8]>,
    /// Names and bytes of `additional_chat_templates/NAME.jinja`: more templates beside `chat_template.jinja`.
    pub additional_chat_templates: &'a [(&'a str, &'a [u8])],
    /// `chat_template.json`: where models of text and pictures keep it.
    pub chat_template_json: Option<&'a [u8]>,
    /// `generation_config.json`, parsed: where generation stops.
    pub generation_config: Option<&'a Value>,
    /// `config.json`, parsed: the last place to look for ids of special tokens.
    pub model_config: Option<&'a Value>,
}

impl fmt::Debug for TokenizerFiles<'_> {
    /// Lengths, not the megabytes themselves.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("TokenizerFiles");
        out.field("at", &self.at);
        let vocabulary = self.vocabulary.map(|(file, bytes)| (file, bytes.len()));
        out.field("vocabulary", &vocabulary);
        for (field, bytes) in [
            ("tokenizer_json", self.tokenizer_json),
            ("vocab_json", self.vocab_json),
            ("merges_txt", self.merges_txt),
            ("config", self.config),
            ("special_tokens_map", self.special_tokens_map),
            ("added_tokens", self.added_tokens),
            ("chat_template_jinja", self.chat_template_jinja),
            ("chat_template_json", self.chat_template_json),
        ] {
            out.field(field, &bytes.map(<[u8]>::len));
        }
        let additional = self.additional_chat_templates.iter();
        let additional: Vec<_> = additional
            .map(|(name, bytes)| (name, bytes.len()))
            .collect();
        out.field("additional_chat_templates", &additional);
        out.field("generation_config", &self.generation_config.is_some())
            .field("model_config", &self.model_config.is_some())
            .finish()
    }
}

impl TokenizerFiles<'_> {
    /// Refuses files that are larger than any in use by far, before they are parsed.
    pub(super) fn check_sizes(&self) -> Result<(), TokenizerError> {
        for (file, bytes, max) in [
            ("tokenizer.json", self.tokenizer_json, JSON_BYTES_MAX),
            ("vocab.json", self.vocab_json, PAIRS_BYTES_MAX),
            ("merges.txt", self.merges_txt, PAIRS_BYTES_MAX),
            ("tokenizer_config.json", self.config, CONFIG_BYTES_MAX),
            (
                "special_tokens_map.json",
                self.special_tokens_map,
                CONFIG_BYTES_MAX,
            ),
            ("added_tokens.json", self.added_tokens, CONFIG_BYTES_MAX),
            (
                "chat_template.json",
                self.chat_template_json,
                CONFIG_BYTES_MAX,
            ),
        ] {
            let len = bytes.map_or(0, <[u8]>::len);
            if len > max {
                let message = format!("the file has {len} bytes, at most {max} are read");
                return Err(self.invalid(file, message));
            }
        }
        Ok(())
    }

    /// A file's name for messages.
    pub(super) fn label(&self, file: &str) -> String {
        match self.at {
            "" => file.to_owned(),
            at => format!("{at}/{file}"),
        }
    }

    /// The error of a file that is not what its name says.
    pub(super) fn invalid(&self, file: &str, source: impl Into<BoxError>) -> TokenizerError {
        TokenizerError::Invalid {
            file: self.label(file),
            source: source.into(),
        }
    }

    /// Parses a file that must hold a JSON object.
    pub(super) fn object(
        &self,
        file: &str,
        bytes: Option<&[u8]>,
    ) -> Result<Option<Object>, TokenizerError> {
        bytes
            .map(|bytes| json::read(bytes).map_err(|source| self.invalid(file, source)))
            .transpose()
    }

    /// An id or a list of ids; of the text model, where the configuration is one of several models and says none. `null`
    /// and -1, which configurations write for none, are left out; anything else that is no id would leave a model without
    /// an end unnoticed.
    pub(super) fn ids(
        &self,
        file: &str,
        config: Option<&Value>,
        field: &'static str,
    ) -> Result<Vec<u32>, TokenizerError> {
        let text = || config?.get("text_config");
        let found = given(config, field).or_else(|| given(text(), field));
        let listed = match found {
            Some(Value::Array(list)) => list.as_slice(),
            Some(one) => core::slice::from_ref(one),
            None => &[],
        };
        listed
            .iter()
            .filter(|value| !value.is_null() && value.as_i64() != Some(-1))
            .map(|value| {
                let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
                id.ok_or_else(|| TokenizerError::NoId {
                    file: self.label(file),
                    field,
                    found: json::text(value),
                })
            })
            .collect()
    }
}

pub(super) type Object = serde_json::Map<String, Value>;

/// A field that is there and not `null`.
fn given<'a>(config: Option<&'a Value>, field: &str) -> Option<&'a Value> {
    config?.get(field).filter(|value| !value.is_null())
}
