//! Errors of a template, and where they happened.

/// Why a template gave no text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::text) enum JinjaError {
    /// The template called `raise_exception`.
    #[error("{0}")]
    Raised(String),
    /// The template does not parse, or an operation fails as it does in Jinja2.
    #[error("line {line}: {message}")]
    At {
        /// Counted from 1.
        line: usize,
        /// The failure in words.
        message: String,
    },
    /// The same, before the line is known.
    #[error("{0}")]
    Plain(String),
}

/// The result of everything here.
pub(super) type Result<T> = std::result::Result<T, JinjaError>;

impl JinjaError {
    /// An error whose line the caller adds.
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self::Plain(message.into())
    }

    /// Adds the line where none is known yet.
    pub(super) fn at(self, line: usize) -> Self {
        match self {
            Self::Plain(message) => Self::At { line, message },
            known => known,
        }
    }
}

/// Ends a function with an error.
macro_rules! fail {
    ($($part:tt)*) => {
        return Err($crate::text::jinja::error::JinjaError::new(format!($($part)*)))
    };
}
pub(super) use fail;
