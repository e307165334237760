//! What to publish, and where.

use std::path::{Path, PathBuf};

#[cfg(feature = "hub")]
use super::hub::Secret;

/// What to publish, and where: see [`publish::push`](crate::publish::push).
#[derive(Debug, Clone)]
#[must_use]
pub struct PushConfig {
    pub(crate) folder: PathBuf,
    pub(crate) to: String,
    pub(crate) base_model: Option<String>,
    pub(crate) replace: bool,
    pub(crate) private: bool,
    pub(crate) message: Option<String>,
    #[cfg(feature = "hub")]
    pub(crate) token: Option<Secret>,
}

impl PushConfig {
    /// The finished `folder`, under `to`: `s3://bucket/folder`, `gs://…`, `az://…`, or `hf://org/name`.
    pub fn new(folder: impl AsRef<Path>, to: impl Into<String>) -> Self {
        Self {
            folder: folder.as_ref().to_owned(),
            to: to.into(),
            base_model: None,
            replace: false,
            private: false,
            message: None,
            #[cfg(feature = "hub")]
            token: None,
        }
    }

    /// The model that it was made from, for the card: `org/name` on the hub.
    pub fn base_model(mut self, name: impl Into<String>) -> Self {
        self.base_model = Some(name.into());
        self
    }

    /// Whether files of the same names and other bytes are replaced; refused if not given.
    pub fn replace(mut self, replace: bool) -> Self {
        self.replace = replace;
        self
    }

    /// Whether a model that is new on the hub is private; public if not given.
    pub fn private(mut self, private: bool) -> Self {
        self.private = private;
        self
    }

    /// The message of the commit on the hub.
    pub fn message(mut self, message: impl Into<String>) -> Self {
        self.message = Some(message.into());
        self
    }

    /// The token for the hub; that of the environment if not given.
    #[cfg(feature = "hub")]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(Secret(token.into()));
        self
    }
}
