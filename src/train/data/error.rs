//! Data that cannot be trained on.

use std::{fmt, io, path::PathBuf};

use crate::{config::Bytes, text::TokenizerError};

/// Data that cannot be trained on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// No file and no folder is given.
    #[error("no data: give a file or a folder")]
    Nothing,
    /// A number of the configuration that cannot be used.
    #[error("`{setting}` is {value}, expected 1 to 4294967295")]
    Setting {
        /// The field of [`DataConfig`](super::DataConfig).
        setting: &'static str,
        /// Its value.
        value: usize,
    },
    /// A file or a folder cannot be read.
    #[error("{}: {source}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file whose name does not say how it is to be read.
    #[error(
        "{}: expected a name that ends with .txt or .md (text), .jsonl or .json (records)",
        file.display()
    )]
    Kind {
        /// The file.
        file: PathBuf,
    },
    /// A folder without files of data.
    #[error(
        "{}: no file ends with .txt, .md, .jsonl or .json; folders in it are not looked into", folder.display()
    )]
    Folder {
        /// The folder.
        folder: PathBuf,
    },
    /// A file without text or records.
    #[error("{}: the file is empty; remove it or leave it out", file.display())]
    Empty {
        /// The file.
        file: PathBuf,
    },
    /// A record that cannot be read, or that cannot be made to tokens.
    #[error("{}, line {line}: {source}", file.display())]
    Record {
        /// The file.
        file: PathBuf,
        /// The line, counted from 1.
        line: u64,
        /// What is wrong.
        source: Box<RecordError>,
    },
    /// No document has a token to train on.
    #[error("no token of the data can be trained on: {summary}")]
    Untrained {
        /// What became of the documents.
        summary: String,
    },
    /// A position of other data, or of another configuration.
    #[error(
        "the position is {field} {value}, and the data have {len}; it was saved with other data or another configuration"
    )]
    Position {
        /// The field of [`DataPosition`](super::DataPosition).
        field: &'static str,
        /// Its value.
        value: u64,
        /// How many there are.
        len: u64,
    },
    /// An example has no text.
    #[error("the example cannot be shown: {0}")]
    Shown(#[source] TokenizerError),
    /// The system starts no thread.
    #[error("no thread to make tokens on: {0}; `workers` = 0 needs none")]
    Thread(String),
}

/// A record that cannot be trained on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The bytes are no text.
    #[error("the bytes from {at} on in the record are no UTF-8; convert the file")]
    Encoding {
        /// The place in the record.
        at: usize,
    },
    /// The record has more bytes than are read at once.
    #[error(
        "the record has more than {most}; texts of this size belong into a .txt file, which is read in parts"
    )]
    Long {
        /// How many are.
        most: Bytes,
    },
    /// The record is not JSON.
    #[error(
        "{0} of the record; expected one record a line, or in a .json file one list of records"
    )]
    Json(String),
    /// A list of records in a `.json` file that is not one.
    #[error("{0}")]
    List(&'static str),
    /// None of the fields that are known is there.
    #[error(
        "none of the fields `text`, `messages`, `conversations`, `prompt` with `completion`, `instruction` with `output` is there; \
         the record has {found}"
    )]
    NoField {
        /// The fields that it has.
        found: String,
    },
    /// A field that belongs to another one is missing.
    #[error("`{missing}` is missing beside `{given}`")]
    Half {
        /// The field that is there.
        given: &'static str,
        /// The one that is not.
        missing: &'static str,
    },
    /// A field of another type.
    #[error("`{field}` is {found}, expected {expected}")]
    Type {
        /// The field.
        field: String,
        /// What it is.
        found: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// A speaker that is not known.
    #[error("`{field}` is {role:?}, expected {expected}")]
    Role {
        /// The field.
        field: String,
        /// Its value.
        role: String,
        /// The known ones.
        expected: &'static str,
    },
    /// A chat for a model without a chat template.
    #[error(
        "the record is a chat, and the model has no chat template; put a chat_template.jinja beside the model, or write the record \
         with `text`, or `prompt` and `completion`"
    )]
    NoTemplate,
    /// The place of an answer in the text of the chat cannot be found.
    #[error(
        "the place of message {message} (counted from 1) in the text of the chat cannot be verified: {reason}; \
         mark answers in the template with {{% generation %}} … {{% endgeneration %}}"
    )]
    Unverifiable {
        /// The message, counted from 1.
        message: usize,
        /// The finding.
        reason: &'static str,
    },
    /// The tokenizer or the chat template refuses the record.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// A type of JSON in words.
pub(super) fn type_of(value: &serde_json::Value) -> &'static str {
    match value {
        serde_json::Value::Null => "null",
        serde_json::Value::Bool(_) => "a boolean",
        serde_json::Value::Number(_) => "a number",
        serde_json::Value::String(_) => "a text",
        serde_json::Value::Array(_) => "a list",
        serde_json::Value::Object(_) => "an object",
    }
}

impl RecordError {
    pub(super) fn wrong_type(
        field: impl fmt::Display,
        found: &serde_json::Value,
        expected: &'static str,
    ) -> Self {
        Self::Type {
            field: field.to_string(),
            found: type_of(found),
            expected,
        }
    }
}
