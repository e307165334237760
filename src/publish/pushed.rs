//! The answer of a publication: where the folder is, and its files.

use std::path::PathBuf;

use serde::Serialize;

/// A folder that was published. Serialises to what `firebox push --json` prints.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Pushed {
    /// The folder.
    pub folder: PathBuf,
    /// Where it is now, without secrets.
    pub to: String,
    /// The commit, on the hub.
    pub commit: Option<String>,
    /// Whether the folder's own README.md was published, and no card was written.
    pub own_card: bool,
    /// Every file, in the order in which they were sent.
    pub files: Vec<PushedFile>,
}

/// A file that was published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PushedFile {
    /// Its name.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of its bytes in hexadecimal, here and there.
    pub sha256: String,
    /// Whether it was there already.
    pub was_there: bool,
}

/// Where a folder is, the commit on the hub, and every file.
pub(super) type Published = (String, Option<String>, Vec<PushedFile>);
