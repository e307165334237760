//! One token beside the vocabulary, as a file writes it.

use serde_json::Value;
use tokenizers::AddedToken;

use super::files::Object;

/// A token, written as a string or as an object with its properties.
///
/// transformers keeps the two apart: a string is a special token. So does this type, since the order and the properties
/// of the tokens that are added depend on it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct WrittenToken {
    token: AddedToken,
    form: Form,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Form {
    Text,
    /// `normalized` is said, or the opposite of `special`.
    Object {
        says_normalized: bool,
    },
}

impl WrittenToken {
    /// A special token, as a string.
    pub(super) fn text(content: impl Into<String>) -> Self {
        Self {
            token: AddedToken::from(content, true),
            form: Form::Text,
        }
    }

    /// A token whose properties are known.
    pub(super) fn known(token: AddedToken) -> Self {
        Self {
            token,
            form: Form::Object {
                says_normalized: true,
            },
        }
    }

    /// A string or an object. `special` is the file's word about all its tokens.
    pub(super) fn read(value: &Value, special: Option<bool>) -> Option<Self> {
        match value {
            Value::String(content) => Some(Self::text(content)),
            Value::Object(fields) => Self::object(fields, special),
            _ => None,
        }
    }

    /// An object with `content`; of properties that it lacks, those of transformers' `AddedToken`.
    pub(super) fn object(fields: &Object, special: Option<bool>) -> Option<Self> {
        let flag = |key: &str| fields.get(key).and_then(Value::as_bool);
        let special = special.or_else(|| flag("special")).unwrap_or(false);
        let content = fields.get("content")?.as_str()?;
        let normalized = flag("normalized");
        let token = AddedToken::from(content, special)
            .single_word(flag("single_word").unwrap_or(false))
            .lstrip(flag("lstrip").unwrap_or(false))
            .rstrip(flag("rstrip").unwrap_or(false))
            .normalized(normalized.unwrap_or(!special));
        Some(Self {
            token,
            form: Form::Object {
                says_normalized: normalized.is_some(),
            },
        })
    }

    /// The text of the token.
    pub(super) fn content(&self) -> &str {
        &self.token.content
    }

    /// With its properties.
    pub(super) fn token(&self) -> &AddedToken {
        &self.token
    }

    /// Makes it a special token.
    pub(super) fn specialize(&mut self) {
        self.token.special = true;
        if let Form::Object {
            says_normalized: false,
        } = self.form
        {
            self.token.normalized = false;
        }
    }
}
