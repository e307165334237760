//! Text to token ids and back, as the checkpoint's own `tokenizer.json` says.
//!
//! ```text
//! messages ─► chat template ─► text ─► encode ─► ids ─► model ─► ids ─► stream ─► text
//! ```
//!
//! Nothing here reads files: the loader hands over the bytes it found ([`TokenizerFiles`]).
//!
//! # Where each rule comes from
//!
//! | question | answered by |
//! |---|---|
//! | how text becomes ids, and whether a beginning-of-sequence id is added | `tokenizer.json` |
//! | where generation stops | `generation_config.json`, else `tokenizer_config.json`, else `config.json` |
//! | which token begins a text, which one pads | `tokenizer_config.json`, else `special_tokens_map.json`, else the two configurations |
//! | how a conversation becomes text | `chat_template.jinja`, else `tokenizer_config.json` |

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

mod chat;
mod error;
mod jinja;
mod stream;

pub use chat::{ChatTemplate, GenerationPrompt, Message};
pub use error::{BoxError, TokenizerError};
pub use stream::StreamDecoder;

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
    fn label(&self, file: &str) -> String {
        match self.at {
            "" => file.to_owned(),
            at => format!("{at}/{file}"),
        }
    }

    /// The error of a file that is not what its name says.
    fn invalid(&self, file: &str, source: impl Into<BoxError>) -> TokenizerError {
        TokenizerError::Invalid {
            file: self.label(file),
            source: source.into(),
        }
    }

    /// Parses a file that must hold a JSON object.
    fn object(&self, file: &str, bytes: Option<&[u8]>) -> Result<Option<Object>, TokenizerError> {
        bytes
            .map(|bytes| serde_json::from_slice(bytes).map_err(|source| self.invalid(file, source)))
            .transpose()
    }

    /// An id or a list of ids. `null` and -1, which configurations write for none, are left out; anything
    /// else that is no id would leave a model without an end unnoticed.
    fn ids(
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

/// What happens to tokens that are not text, such as `<s>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SpecialTokens {
    /// Encoding adds those that `tokenizer.json` asks for. Decoding writes them out.
    Include,
    /// Encoding adds none, which is right for text that a chat template has already begun with one.
    /// Decoding leaves them out.
    Omit,
}

/// A checkpoint's tokenizer: text to ids, ids to text, conversations to text.
///
/// ```
/// use firebox::text::{SpecialTokens, Tokenizer, TokenizerFiles};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let tokenizer_json = include_bytes!("../../assets/tinyrust/tokenizer.json");
/// let tokenizer = Tokenizer::from_bytes(TokenizerFiles {
///     tokenizer_json,
///     ..TokenizerFiles::default()
/// })?;
/// let ids = tokenizer.encode("fn main() {}", SpecialTokens::Include)?;
/// assert_eq!(tokenizer.decode(&ids, SpecialTokens::Omit)?, "fn main() {}");
/// # Ok(())
/// # }
/// ```
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// How ids become text one at a time; decided once from the decoder in `tokenizer.json`.
    decoding: stream::Decoding,
    bos: Option<u32>,
    eos: Vec<u32>,
    pad: Option<u32>,
    chat: Option<ChatTemplate>,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("bos", &self.bos)
            .field("eos", &self.eos)
            .field("pad", &self.pad)
            .field("chat_template", &self.chat.is_some())
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Reads the files of a tokenizer.
    ///
    /// Truncation and padding that a `tokenizer.json` may carry from its training are switched off,
    /// as transformers does: a prompt is never cut silently.
    ///
    /// A chat template is not compiled here, so that a template this crate cannot run does not keep a
    /// model from being loaded; [`Tokenizer::apply_chat`] reports it.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::Invalid`] names the file that could not be understood, [`TokenizerError::NoId`]
    /// the field of one that was.
    pub fn from_bytes(files: TokenizerFiles<'_>) -> Result<Self, TokenizerError> {
        let broken = |source| files.invalid("tokenizer.json", source);
        let mut inner = tokenizers::Tokenizer::from_bytes(files.tokenizer_json).map_err(broken)?;
        inner.with_truncation(None).map_err(broken)?;
        inner.with_padding(None);

        let config = files.object("tokenizer_config.json", files.config)?;
        let map = files.object("special_tokens_map.json", files.special_tokens_map)?;
        // The configuration wins: the map is the older file, and often a copy that went stale.
        let mut special = special_tokens(map.as_ref());
        special.extend(special_tokens(config.as_ref()));

        let generation =
            |field| files.ids("generation_config.json", files.generation_config, field);
        let model = |field| files.ids("config.json", files.model_config, field);
        let configured = |field| match generation(field)? {
            none if none.is_empty() => model(field),
            ids => Ok(ids),
        };
        let named = |key: &str| {
            special
                .get(key)
                .and_then(|token| inner.token_to_id(token.as_str()))
        };
        let or_first = |token: Option<u32>, field| match token {
            Some(token) => Ok(Some(token)),
            None => Ok(configured(field)?.first().copied()),
        };
        let bos = or_first(named("bos_token"), "bos_token_id")?;
        let pad = or_first(named("pad_token"), "pad_token_id")?;
        let eos = match (generation("eos_token_id")?, named("eos_token")) {
            (ids, _) if !ids.is_empty() => ids,
            (_, Some(id)) => vec![id],
            (_, None) => model("eos_token_id")?,
        };

        let chat = ChatTemplate::find(&files, config.as_ref(), special)?;
        let decoding = stream::Decoding::of(inner.get_decoder());
        Ok(Self {
            inner,
            decoding,
            bos,
            eos,
            pad,
            chat,
        })
    }

    /// The ids of a text.
    ///
    /// With [`SpecialTokens::Include`] the post-processor of `tokenizer.json` adds its tokens, which for
    /// most models is one at the beginning. Special tokens *written in the text* become their ids
    /// either way, so untrusted text can forge them.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::Encode`] when the tokenizer has no token for a part of the text and none for
    /// the unknown either.
    pub fn encode(&self, text: &str, special: SpecialTokens) -> Result<Vec<u32>, TokenizerError> {
        // `encode_fast` gives the same ids and skips the offsets, which nobody here reads.
        self.inner
            .encode_fast(text, special == SpecialTokens::Include)
            .map(|encoding| encoding.get_ids().to_vec())
            .map_err(|source| TokenizerError::Encode { source })
    }

    /// The text of some ids. Ids that the vocabulary does not have are left out.
    ///
    /// Bytes that are not valid UTF-8 become U+FFFD. The result is what the tokenizer's own decoder
    /// says; the optional clean-up of spaces that old configurations ask for is not applied.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::Decode`] when the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32], special: SpecialTokens) -> Result<String, TokenizerError> {
        self.inner
            .decode(ids, special == SpecialTokens::Omit)
            .map_err(|source| TokenizerError::Decode { source })
    }

    /// Turns ids into text one at a time, as a model produces them.
    pub fn stream(&self, special: SpecialTokens) -> StreamDecoder<'_> {
        StreamDecoder::new(&self.inner, &self.decoding, special)
    }

    /// How many tokens there are, added ones included. A model's embedding may have more rows than
    /// this, since many are padded to a round number.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The id of a token, as the vocabulary writes it (a leading space may be `Ġ` or `▁`).
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token of an id, as the vocabulary writes it.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The token a text begins with, where the model has one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The tokens that end generation; any of them does. Empty when no file names one.
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos
    }

    /// The token that fills a batch up, where the model has one.
    pub fn pad(&self) -> Option<u32> {
        self.pad
    }

    /// The chat template, where the checkpoint has one.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.chat.as_ref()
    }

    /// Writes a conversation as the model was trained to read it.
    ///
    /// Encode the result with [`SpecialTokens::Omit`]: templates write the beginning-of-sequence token
    /// themselves, and a second one makes answers worse without an error anywhere.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::NoChatTemplate`] when the checkpoint has none, and the errors of
    /// [`ChatTemplate::apply`].
    pub fn apply_chat(
        &self,
        messages: &[Message],
        prompt: GenerationPrompt,
    ) -> Result<String, TokenizerError> {
        self.chat
            .as_ref()
            .ok_or(TokenizerError::NoChatTemplate)?
            .apply(messages, prompt)
    }
}

type Object = serde_json::Map<String, Value>;

/// `bos_token`, `eos_token` and their like, written as a string or as an object with its `content`.
fn special_tokens(config: Option<&Object>) -> BTreeMap<String, String> {
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
