//! How many threads convert weights.

use core::num::NonZeroUsize;

use serde::{Deserialize, Serialize};

/// How many threads convert weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Workers {
    /// As many as the process may run on and the load has work for: one where nothing is converted or a device
    /// converts everything, fewer where a small budget leaves tiles that are too small to share.
    #[default]
    Auto,
    /// This many.
    Count(NonZeroUsize),
}
