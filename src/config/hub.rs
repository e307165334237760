//! How a model id of the hub is resolved.

use core::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// How a model id of the hub is resolved. Ignored for local models.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct HubConfig {
    pub(crate) revision: Option<String>,
    /// Never written to a file.
    #[serde(skip)]
    pub(crate) token: Option<Secret>,
    pub(crate) cache: Option<PathBuf>,
    pub(crate) offline: Option<bool>,
}

/// Text that `Debug` does not print: a token.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(pub(crate) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
