//! How a model id of the hub is resolved.

use core::fmt;
#[cfg(feature = "remote")]
use std::path::Path;
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
    /// Whether files are read where they are, and not kept in the cache.
    pub(crate) uncached: bool,
    /// Bytes that the cache of a streamed model may take.
    pub(crate) cache_limit: Option<u64>,
}

/// Bytes of a cache whose limit is not said.
#[cfg(feature = "remote")]
const CACHE_LIMIT: u64 = 16 << 30;

#[cfg(feature = "remote")]
impl HubConfig {
    /// The cache of a streamed model: its folder and the bytes it may take; `None` where nothing is kept.
    pub(crate) fn range_cache(&self) -> Option<(&Path, u64)> {
        let folder = self.cache.as_deref()?;
        Some((folder, self.cache_limit.unwrap_or(CACHE_LIMIT)))
    }
}

/// Text that `Debug` does not print: a token.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(pub(crate) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
