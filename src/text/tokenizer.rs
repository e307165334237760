//! Text to ids and back.

use std::{fmt, ops::Range};

use super::{
    added::Added,
    chat::{ChatTemplate, GenerationPrompt, Message},
    clean_up::clean_up,
    convert::convert,
    error::TokenizerError,
    files::{Object, TokenizerFiles},
    growth::Growth,
    guard::guarded,
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
    /// Whether spaces of a decoded text are cleaned up.
    cleans_up: bool,
    growth: Growth,
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
        files.check_sizes()?;
        guarded(|| Ok(Self::read(files))).unwrap_or_else(|source| {
            let file = files.vocabulary.map_or("vocab.json", |(file, _)| file);
            let file = files.tokenizer_json.map_or(file, |_| "tokenizer.json");
            Err(files.invalid(file, source))
        })
    }

    fn read(files: TokenizerFiles<'_>) -> Result<Self, TokenizerError> {
        let config = files.object("tokenizer_config.json", files.config)?;
        let map = files.object("special_tokens_map.json", files.special_tokens_map)?;
        let mut added = Added::read(&files, config.as_ref(), map.as_ref())?;
        let (mut inner, made_from, growth) = match files.tokenizer_json {
            Some(bytes) => {
                let (inner, growth) = read_json(&files, bytes, &added)?;
                (inner, "tokenizer.json".to_owned(), growth)
            }
            None => {
                let (inner, made_from) = convert(&files, config.as_ref(), &mut added)?;
                (inner, made_from, Growth::default())
            }
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
        let cleans_up = config.is_some_and(|config| cleans_up(&config, inner.get_model()));
        Ok(Self {
            inner,
            made_from,
            decoding,
            cleans_up,
            growth,
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
        let encode = || {
            self.growth.encode.check(|| text.len())?;
            let encoding = self
                .inner
                .encode_fast(text, special == SpecialTokens::Include)?;
            Ok(encoding.get_ids().to_vec())
        };
        guarded(encode).map_err(|source| TokenizerError::Encode { source })
    }

    /// The ids of a text, each with the bytes of the text that it stands for. A token that is added beside the text has none.
    ///
    /// # Errors
    ///
    /// As [`Tokenizer::encode`].
    pub fn encode_with_places(
        &self,
        text: &str,
        special: SpecialTokens,
    ) -> Result<Vec<(u32, Range<usize>)>, TokenizerError> {
        let encode = || {
            self.growth.encode.check(|| text.len())?;
            let encoding = self.inner.encode(text, special == SpecialTokens::Include)?;
            let places = encoding.get_offsets().iter();
            let places = places.map(|(begin, end)| *begin..*end);
            Ok(encoding.get_ids().iter().copied().zip(places).collect())
        };
        guarded(encode).map_err(|source| TokenizerError::Encode { source })
    }

    /// Whether a token is no text: one that [`SpecialTokens::Omit`] leaves out, or one that ends generation.
    pub fn is_special(&self, id: u32) -> bool {
        let added = self.inner.get_added_vocabulary();
        let token = added.get_added_tokens_decoder().get(&id);
        token.is_some_and(|token| token.special) || self.eos.contains(&id)
    }

    /// The text of some ids. Ids that the vocabulary does not have are left out.
    ///
    /// Bytes that are not valid UTF-8 become U+FFFD. The result is what the tokenizer's own decoder
    /// says. Where `clean_up_tokenization_spaces` asks for it, spaces in front of punctuation are removed; as in
    /// transformers, not for byte pairs, which know their spaces.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::Decode`] when the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32], special: SpecialTokens) -> Result<String, TokenizerError> {
        let decode = || {
            let token_bytes = |id: &u32| self.inner.id_to_token(*id).map_or(0, |token| token.len());
            self.growth
                .decode
                .check(|| ids.iter().map(token_bytes).sum())?;
            self.inner.decode(ids, special == SpecialTokens::Omit)
        };
        let text = guarded(decode).map_err(|source| TokenizerError::Decode { source })?;
        Ok(if self.cleans_up {
            clean_up(&text)
        } else {
            text
        })
    }

    /// Turns ids into text one at a time, as a model produces them.
    pub fn stream(&self, special: SpecialTokens) -> StreamDecoder<'_> {
        let decode = self.growth.decode;
        StreamDecoder::new(&self.inner, &self.decoding, special, self.cleans_up, decode)
    }

    /// The files that it was made from, in words: `tokenizer.json`, or `tokenizer.model (sentencepiece) as LlamaTokenizer`.
    pub fn made_from(&self) -> &str {
        &self.made_from
    }

    /// Its `tokenizer.json`, made anew; `null` for one that has none.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::to_value(&*self.inner).unwrap_or_default()
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
) -> Result<(tokenizers::Tokenizer, Growth), TokenizerError> {
    let broken = |source| files.invalid("tokenizer.json", source);
    let (mut tokenizer, growth) = json::read(bytes).map_err(broken)?;
    tokenizer.with_truncation(None).map_err(broken)?;
    tokenizer.with_padding(None);
    added
        .add_to(&mut tokenizer)
        .map_err(|source| files.invalid("tokenizer_config.json", source))?;
    Ok((tokenizer, growth))
}

/// Whether the configuration asks for a clean-up of spaces and the model bears it (`TokenizersBackend._decode` of
/// transformers 5.23).
fn cleans_up(config: &Object, model: &tokenizers::ModelWrapper) -> bool {
    let asks = |field: &str| config.get(field) == Some(&true.into());
    asks("clean_up_tokenization_spaces")
        && (!matches!(model, tokenizers::ModelWrapper::BPE(_))
            || asks("clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"))
}
