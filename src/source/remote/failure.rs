//! What a request failed with, as far as a reader has to know it.

use std::io;

use object_store::client::{HttpError, HttpErrorKind};

/// Redirects of one request at most.
pub(super) const REDIRECTS_MAX: usize = 10;

/// What a request failed with. It travels inside the errors of `object_store`, which keeps them as causes.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum RequestFailure {
    /// The server said no.
    #[error("HTTP status {status}{}", .code.as_ref().map_or(String::new(), |code| format!(" ({code})")))]
    Status {
        status: u16,
        /// The word that the store has for it: `ExpiredToken`, `SlowDown`.
        code: Option<String>,
        /// The region of a bucket that was looked for in another one.
        region: Option<String>,
    },

    /// The server wants to be left alone longer than anybody waits.
    #[error("HTTP status {status}, and it wants to be asked again in {seconds} s only")]
    Busy { status: u16, seconds: u64 },

    /// No answer, or none that could be read.
    #[error("{0}")]
    Line(String),

    /// The server was silent for too long.
    #[error("it was silent for {0} s")]
    Silent(u64),

    /// Something about the connection that another try does not change.
    #[error("{0}")]
    Refused(String),

    /// The server sends whole files, whatever range is asked for.
    #[error("it answers a request for a part of a file with the whole file")]
    WholeFiles,

    #[error("it redirects more than {REDIRECTS_MAX} times")]
    Redirects,
}

impl RequestFailure {
    /// The failure among the causes of an error, if it is there.
    pub(super) fn of<'e>(error: &'e (dyn core::error::Error + 'static)) -> Option<&'e Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref() {
                return Some(found);
            }
            next = error.source();
        }
        None
    }

    /// Whether the same request may succeed a little later.
    pub(super) fn passes(&self) -> bool {
        match self {
            Self::Status { status, .. } => matches!(status, 408 | 425 | 429 | 500..),
            Self::Line(_) | Self::Silent(_) => true,
            Self::Busy { .. } | Self::Refused(_) | Self::WholeFiles | Self::Redirects => false,
        }
    }

    /// As `object_store` takes it, with a kind by which it decides about tries of its own.
    pub(super) fn into_http(self) -> HttpError {
        let kind = match &self {
            Self::Silent(_) => HttpErrorKind::Timeout,
            _ if self.passes() => HttpErrorKind::Interrupted,
            _ => HttpErrorKind::Unknown,
        };
        HttpError::new(kind, self)
    }
}

/// What an error of input and output means.
pub(super) fn broken(error: &io::Error) -> RequestFailure {
    // An error of TLS is one of input and output to `ureq`.
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<ureq::Error>());
    match (inner, error.kind()) {
        (Some(ureq::Error::Timeout(_)), _)
        | (_, io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) => {
            RequestFailure::Line("it was silent for too long".to_owned())
        }
        (_, io::ErrorKind::UnexpectedEof) => {
            RequestFailure::Line("it hung up before the end".to_owned())
        }
        (_, io::ErrorKind::InvalidData) => RequestFailure::Refused(error.to_string()),
        _ => RequestFailure::Line(error.to_string()),
    }
}

/// The words of an expired token, in the stores that have one for it.
const EXPIRED: [&str; 5] = [
    "ExpiredToken",
    "ExpiredTokenException",
    "TokenRefreshRequired",
    "RequestExpired",
    "InvalidAuthenticationInfo",
];

/// Whether `code` says that a token is too old.
pub(super) fn is_expired(code: &str) -> bool {
    EXPIRED.contains(&code)
}

/// The word for an error in the body of an answer: `<Code>word</Code>` (S3, Azure, Google), or `"error": "word"`.
///
/// Nothing else of such a body is shown: those of S3 repeat the key and what was signed.
pub(super) fn code(body: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(body);
    let xml = || Some(text.split_once("<Code>")?.1.split_once("</Code>")?.0);
    let json = || {
        let value: serde_json::Value = serde_json::from_slice(body).ok()?;
        ["code", "status", "reason"].iter().find_map(|field| {
            let inner = value.get("error")?;
            inner
                .get(field)
                .or(Some(inner))?
                .as_str()
                .map(str::to_owned)
        })
    };
    let found = xml().map(|code| code.trim().to_owned()).or_else(json)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    (!found.is_empty() && found.len() <= 64 && found.chars().all(plain)).then_some(found)
}
