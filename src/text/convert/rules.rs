//! The rules of a class, as parts of a tokenizer.

use tokenizers::{DecoderWrapper, ModelWrapper, NormalizerWrapper, PreTokenizerWrapper, Tokenizer};

use crate::text::{
    error::TokenizerError,
    files::{Object, TokenizerFiles},
};

/// The rules of a class: everything of a tokenizer but its added tokens.
pub(super) struct Rules {
    pub(super) model: ModelWrapper,
    pub(super) normalizer: Option<NormalizerWrapper>,
    pub(super) pre_tokenizer: Option<PreTokenizerWrapper>,
    pub(super) decoder: Option<DecoderWrapper>,
}

/// The fields of `tokenizer_config.json` that a class reads.
pub(super) struct ClassOptions<'a>(pub(super) Option<&'a Object>);

impl ClassOptions<'_> {
    /// Whether a field is there and says yes.
    pub(super) fn is_set(&self, field: &str) -> bool {
        self.given(field) == Some(true)
    }

    /// The value of a field, `None` where it is absent or no boolean.
    pub(super) fn given(&self, field: &str) -> Option<bool> {
        self.0?.get(field)?.as_bool()
    }

    pub(super) fn count(&self, field: &str) -> Option<u64> {
        self.0?.get(field)?.as_u64()
    }
}

impl Rules {
    /// The tokenizer of these rules; `file` is where they come from.
    pub(super) fn assemble(
        self,
        files: &TokenizerFiles<'_>,
        file: &str,
    ) -> Result<Tokenizer, TokenizerError> {
        let mut tokenizer = Tokenizer::new(self.model);
        tokenizer
            .with_normalizer(self.normalizer)
            .map_err(|source| files.invalid(file, source))?;
        tokenizer.with_pre_tokenizer(self.pre_tokenizer);
        tokenizer.with_decoder(self.decoder);
        Ok(tokenizer)
    }
}
