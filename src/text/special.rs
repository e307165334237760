//! Tokens that are not text.

/// What happens to tokens that are not text, such as `<s>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SpecialTokens {
    /// Encoding adds those that `tokenizer.json` asks for. Decoding writes them out.
    Include,
    /// Encoding adds none, which is right for text that a chat template has already begun with one.
    /// Decoding leaves them out.
    Omit,
}
