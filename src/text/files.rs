//! The files of a tokenizer.

use std::{collections::BTreeMap, fmt};

use serde_json::Value;

use super::error::{BoxError, TokenizerError};

/// The files that describe a tokenizer, as the checkpoint has them. Only the first is required.
///
/// ```
/// # use firebox::text::TokenizerFiles;
/// # let tokenizer_json = b"{}";
/// let files = TokenizerFiles { tokenizer_json, ..TokenizerFiles::default() };
/// ```
#[derive(Clone, Copy, Default)]
pub struct TokenizerFiles<'a> {
    /// Where the files are, for messages: a folder, `org/name@revision`. Empty: they say the names alone.
    pub at: &'a str,
    /// `tokenizer.json`.
    pub tokenizer_json: &'a [u8],
    /// `tokenizer_config.json`: names of the special tokens, and often the chat template.
    pub config: Option<&'a [u8]>,
    /// `special_tokens_map.json`: names of special tokens that `config` does not give.
    pub special_tokens_map: Option<&'a [u8]>,
    /// `chat_template.jinja`: where newer checkpoints keep the chat template.
    pub chat_template_jinja: Option<&'a [u8]>,
    /// `generation_config.json`, parsed: where generation stops.
    pub generation_config: Option<&'a Value>,
    /// `config.json`, parsed: the last place to look for ids of special tokens.
    pub model_config: Option<&'a Value>,
}

impl fmt::Debug for TokenizerFiles<'_> {
    /// Lengths, not the megabytes themselves.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenizerFiles")
            .field("at", &self.at)
            .field("tokenizer_json", &self.tokenizer_json.len())
            .field("config", &self.config.map(<[u8]>::len))
            .field(
                "special_tokens_map",
                &self.special_tokens_map.map(<[u8]>::len),
            )
            .field(
                "chat_template_jinja",
                &self.chat_template_jinja.map(<[u8]>::len),
            )
            .field("generation_config", &self.generation_config.is_some())
            .field("model_config", &self.model_config.is_some())
            .finish()
    }
}

impl TokenizerFiles<'_> {
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
            .map(|bytes| serde_json::from_slice(bytes).map_err(|source| self.invalid(file, source)))
            .transpose()
    }

    /// An id or a list of ids. `null` and -1, which configurations write for none, are left out; anything
    /// else that is no id would leave a model without an end unnoticed.
    pub(super) fn ids(
        &self,
        file: &str,
        config: Option<&Value>,
        field: &'static str,
    ) -> Result<Vec<u32>, TokenizerError> {
        let found = config.and_then(|config| config.get(field));
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
                    found: value.to_string(),
                })
            })
            .collect()
    }
}

pub(super) type Object = serde_json::Map<String, Value>;

/// `bos_token`, `eos_token` and their like, written as a string or as an object with its `content`.
pub(super) fn special_tokens(config: Option<&Object>) -> BTreeMap<String, String> {
    config
        .into_iter()
        .flatten()
        .filter(|(key, _)| key.ends_with("_token"))
        .filter_map(|(key, value)| {
            let text = value.as_str().or_else(|| value.get("content")?.as_str())?;
            Some((key.clone(), text.to_owned()))
        })
        .collect()
}
