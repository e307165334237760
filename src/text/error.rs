//! What a tokenizer refuses.

/// A cause from a library whose own error type is not part of this crate's interface.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A tokenizer or chat template that cannot do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// A file is not what its name says.
    #[error("{file} cannot be read")]
    Invalid {
        /// The file, and where it is.
        file: String,
        /// What its parser says.
        source: BoxError,
    },

    /// There are no files of a tokenizer.
    #[error(
        "{at}: no tokenizer: neither tokenizer.json nor tekken.json, tokenizer.model, tiktoken.model, spiece.model, \
         qwen.tiktoken, or vocab.json with merges.txt"
    )]
    Missing {
        /// Where they would be.
        at: String,
    },

    /// There is no `tokenizer.json`, and the vocabulary is of a kind that is not converted.
    #[error("{file}: {found}; {remedy}")]
    Unsupported {
        /// The file, and where it is.
        file: String,
        /// The fault of the file.
        found: String,
        /// The way out.
        remedy: &'static str,
    },

    /// A configuration names a special token by something that is no id.
    #[error("{file}: `{field}` is {found}, expected an id from 0 to 4294967295 or a list of them")]
    NoId {
        /// The file, and where it is.
        file: String,
        /// The field.
        field: &'static str,
        /// What the file says.
        found: String,
    },

    /// The text has no ids.
    #[error("the text cannot be encoded")]
    Encode {
        /// What the tokenizer says.
        source: BoxError,
    },

    /// The ids have no text.
    #[error("the ids cannot be decoded")]
    Decode {
        /// What the decoder says.
        source: BoxError,
    },

    /// The checkpoint has no chat template, as base models often have not.
    #[error(
        "no chat template: neither chat_template.jinja nor chat_template in tokenizer_config.json; \
         encode the prompt as plain text instead"
    )]
    NoChatTemplate,

    /// The checkpoint has several chat templates, and none is the default.
    #[error("no chat template is called \"default\"; {file} has {names:?}")]
    NoDefaultTemplate {
        /// The file the templates came from, and where it is.
        file: String,
        /// The templates there are.
        names: Vec<String>,
    },

    /// The chat template refuses this conversation, in its own words.
    #[error("the chat template refuses the conversation: {message}")]
    Refused {
        /// What the template passed to `raise_exception`.
        message: String,
    },

    /// The chat template does not compile or fails while it runs.
    #[error("{file}: the chat template fails")]
    Template {
        /// The file the template came from, and where it is.
        file: String,
        /// What the template engine says, with the line.
        source: BoxError,
    },
}
