//! Text to ids and back.

use std::fmt;

use super::{
    added::Added,
    chat::{ChatTemplate, GenerationPrompt, Message},
    convert::convert,
    error::TokenizerError,
    files::TokenizerFiles,
    json,
    special::SpecialTokens,
    stream::{Decoding, StreamDecoder},
};

/// A checkpoint's tokenizer: text to ids, ids to text, conversations to text.
///
/// ```
/// use firebox::text::{SpecialTokens, Tokenizer, TokenizerFiles};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let tokenizer_json = include_bytes!("../../assets/tinyrust/tokenizer.json");
/// let tokenizer = Tokenizer::from_bytes(TokenizerFiles {
///     tokenizer_json: Some(tokenizer_json),
///     ..TokenizerFiles::default()
/// })?;
/// let ids = tokenizer.encode("fn main() {}", SpecialTokens::Include)?;
/// assert_eq!(tokenizer.decode(&ids, SpecialTokens::Omit)?, "fn main() {}");
/// # Ok(())
/// # }
/// ```
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    made_from: String,
    /// How ids become text one at a time; decided once from the decoder in `tokenizer.json`.
    decoding: Decoding,
    bos: Option<u32>,
    eos: Vec<u32>,
    pad: Option<u32>,
    chat: Option<ChatTemplate>,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("made_from", &self.made_from)
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
        let config = files.object("tokenizer_config.json", files.config)?;
        let map = files.object("special_tokens_map.json", files.special_tokens_map)?;
        let mut added = Added::read(&files, config.as_ref(), map.as_ref())?;
        let (mut inner, made_from) = match files.tokenizer_json {
            Some(bytes) => (
                read_json(&files, bytes, &added)?,
                "tokenizer.json".to_owned(),
            ),
            None => convert(&files, config.as_ref(), &mut added)?,
        };
        let split = config
            .as_ref()
            .and_then(|config| config.get("split_special_tokens"));
        inner.set_encode_special_tokens(split == Some(&true.into()));

        let generation =
            |field| files.ids("generation_config.json", files.generation_config, field);
        let model = |field| files.ids("config.json", files.model_config, field);
        let configured = |field| match generation(field)? {
            none if none.is_empty() => model(field),
            ids => Ok(ids),
        };
        let named = |name: &str| inner.token_to_id(added.named(name)?);
        let or_first = |token: Option<u32>, field| match token {
            Some(token) => Ok(Some(token)),
            None => Ok(configured(field)?.first().copied()),
        };
        let bos = or_first(named("bos_token"), "bos_token_id")?;
        let pad = or_first(named("pad_token"), "pad_token_id")?;
        let eos = match configured("eos_token_id")? {
            none if none.is_empty() => named("eos_token").into_iter().collect(),
            ids => ids,
        };

        let chat = ChatTemplate::find(&files, config.as_ref(), added.into_named())?;
        let decoding = Decoding::of(inner.get_decoder());
        Ok(Self {
            inner,
            made_from,
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
        // `encode_fast` gives the same ids and skips the offsets, which are not used here.
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

    /// The files that it was made from, in words: `tokenizer.json`, or `tokenizer.model (sentencepiece) as LlamaTokenizer`.
    pub fn made_from(&self) -> &str {
        &self.made_from
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

/// The tokenizer of a `tokenizer.json`, with the tokens that it lacks.
fn read_json(
    files: &TokenizerFiles<'_>,
    bytes: &[u8],
    added: &Added,
) -> Result<tokenizers::Tokenizer, TokenizerError> {
    let broken = |source| files.invalid("tokenizer.json", source);
    let mut tokenizer = json::read(bytes).map_err(broken)?;
    tokenizer.with_truncation(None).map_err(broken)?;
    tokenizer.with_padding(None);
    added
        .add_to(&mut tokenizer)
        .map_err(|source| files.invalid("tokenizer_config.json", source))?;
    Ok(tokenizer)
}
