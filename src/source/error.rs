//! Files that could not be read.

use std::borrow::Cow;

#[cfg(doc)]
use super::read::{SMALL_FILE_BYTES_MAX, Source};
#[cfg(doc)]
use crate::config::Reading;

/// A file could not be read. There is a variant for each remedy; each names the file and the source (`at`, its
/// [`Source::describe`]).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The source is there, the file is not.
    #[error("{at}/{file}: no such file")]
    NotFound {
        /// The source.
        at: String,
        /// The file asked for.
        file: String,
    },

    /// The file is shorter than the range asked for.
    #[error(
        "{at}/{file}: bytes up to {wanted_end} were asked for, and the file has {len}; it is cut \
         short, fetch it again"
    )]
    Truncated {
        /// The source.
        at: String,
        /// The file.
        file: String,
        /// One past the last byte asked for.
        wanted_end: u64,
        /// Bytes that there are.
        len: u64,
    },

    /// Another program has written to the file since it was opened.
    #[error(
        "{at}/{file}: another program changed it while it was read; it had {was} bytes and has {now}, and what was read may be of \
         both states; read it again when nobody writes to it"
    )]
    Changed {
        /// The source.
        at: String,
        /// The file.
        file: String,
        /// Bytes that it had when it was opened.
        was: u64,
        /// Bytes that it has.
        now: u64,
    },

    /// A file that should be small is not.
    #[error(
        "{at}/{file}: {len} bytes, and a file that is read whole may have {max}; is it the file that its name says?"
    )]
    TooLarge {
        /// The source.
        at: String,
        /// The file.
        file: String,
        /// Its length in bytes.
        len: u64,
        /// The limit, [`SMALL_FILE_BYTES_MAX`].
        max: u64,
    },

    /// A name that leads out of the model: absolute, or with `..` in it.
    #[error("{at}: refused the file name {file:?}, which leads out of the model")]
    Name {
        /// The source.
        at: String,
        /// The name as it was given.
        file: String,
    },

    /// This name is not that of a file.
    #[error("{at}/{file}: is {found}, not a regular file")]
    NotAFile {
        /// The source.
        at: String,
        /// The name.
        file: String,
        /// Its kind: a folder, a pipe.
        found: &'static str,
    },

    /// The operating system refused.
    #[error("{at}/{file}: {source}")]
    Io {
        /// The source.
        at: String,
        /// The file.
        file: String,
        /// The system's reason.
        source: std::io::Error,
    },

    /// [`Reading::Direct`] was asked for where it does not go.
    #[error(
        "{at}/{file}: {file_system} has no direct reads ({source}); read it `buffered`, or leave the choice to `auto`"
    )]
    NoDirectReads {
        /// The source.
        at: String,
        /// The file.
        file: String,
        /// The kind of file system, `tmpfs`.
        file_system: String,
        /// The system's reason.
        source: std::io::Error,
    },

    /// A path was given that is neither a folder nor a file of weights.
    #[error(
        "{path}: {found}; give a model's folder, or one file of weights (.safetensors, .gguf, .bin, .pt, .pth, .ckpt, .bpk)"
    )]
    NotAModelPath {
        /// The path as it was given.
        path: String,
        /// The thing that is there instead.
        found: String,
    },

    /// No file has this name, and the hub could not look it up as a model.
    #[error("no folder or file {name:?} exists here, and as a model of the hub: {source}")]
    NotHere {
        /// The name as it was given.
        name: String,
        /// The hub's reason.
        source: Box<SourceError>,
    },

    /// A model id, model address or revision that cannot be one.
    #[error("{given:?} is not a {what}: {why}")]
    BadId {
        /// The text as it was given.
        given: String,
        /// `"model id"`, `"model address"`, `"revision"`, or another word for an address or an endpoint.
        what: &'static str,
        /// The rule that it breaks.
        why: Cow<'static, str>,
    },

    /// A file that is read over the network is another one than at the first request for it.
    #[error(
        "{at}/{file}: was replaced while it was read: {was} before, {now} now; what was read is of two files, so read the model again"
    )]
    Replaced {
        /// The source.
        at: String,
        /// The file.
        file: String,
        /// Its length and ETag at first.
        was: Box<str>,
        /// Its length and ETag now.
        now: Box<str>,
    },

    /// A store does not let the file be read.
    #[error("{at}/{file}: the store answered {status}{}; {remedy}", .code.as_ref().map_or(String::new(), |code| format!(" ({code})")))]
    Denied {
        /// The source.
        at: String,
        /// The file.
        file: String,
        /// The status of HTTP.
        status: u16,
        /// The store's word for it.
        code: Option<Box<str>>,
        /// What to do.
        remedy: &'static str,
    },

    /// A token or a signature was good for some time, which is over.
    #[error(
        "{at}/{file}: the token or the signature has expired; get a new one, and go on (a save with `--resume`)"
    )]
    Expired {
        /// The source.
        at: String,
        /// The file.
        file: String,
    },

    /// A server sends whole files only.
    #[error(
        "{at}/{file}: the server answers a request for a part of a file with the whole file, so weights cannot be read from it; use a server \
         with ranges, or download the model first"
    )]
    WholeFiles {
        /// The source.
        at: String,
        /// The file.
        file: String,
    },

    /// The environment does not make a store of an address.
    #[error("{at}: the store cannot be reached: {reason}")]
    Store {
        /// The address, without secrets.
        at: String,
        /// What is wrong, without secrets.
        reason: String,
    },

    /// The hub has no such model.
    #[error("{endpoint} has no model {id}; check the spelling")]
    NoModel {
        /// The hub.
        endpoint: String,
        /// The model asked for.
        id: String,
    },

    /// The hub has the model, not the revision.
    #[error("{endpoint}: model {id} has no revision {revision:?}; name a branch, tag or commit")]
    NoRevision {
        /// The hub.
        endpoint: String,
        /// The model.
        id: String,
        /// The revision asked for.
        revision: String,
    },

    /// The hub wants a token, or a better one. It answers so for a model that does not exist, too.
    #[error(
        "{at}/{file}: the hub answered {status} to a request {}; check the spelling, set HF_TOKEN \
         to a token that may read it, and accept the licence on the model's page if it has one",
        if *.with_token { "with a token" } else { "without a token" }
    )]
    Unauthorized {
        /// The source.
        at: String,
        /// The file.
        file: String,
        /// 401 or 403.
        status: u16,
        /// Whether a token was sent.
        with_token: bool,
    },

    /// Offline, and the cache lacks the file.
    #[error(
        "{at}/{file}: not in the cache {cache}, and offline; unset HF_HUB_OFFLINE (or `offline`) \
         once to download it"
    )]
    NotCached {
        /// The source.
        at: String,
        /// The file.
        file: String,
        /// The cache folder.
        cache: String,
    },

    /// An observer of downloads asked to stop.
    #[error("{at}/{file}: stopped, {done} of {total} bytes are downloaded and kept")]
    Cancelled {
        /// The source.
        at: String,
        /// The file.
        file: String,
        /// Bytes that have come.
        done: u64,
        /// Bytes of the file.
        total: u64,
    },

    /// The hub or a store could not be reached, or did not keep to its protocol.
    #[error("{at}/{file}: {endpoint} failed: {source}")]
    Network {
        /// The source.
        at: String,
        /// The file.
        file: String,
        /// The hub.
        endpoint: Box<str>,
        /// The last of the failures.
        source: Box<dyn core::error::Error + Send + Sync>,
    },
}

impl SourceError {
    /// A read of `file` of `at` up to `wanted_end`, when it ends at `len`.
    pub(crate) fn truncated(at: String, file: &str, wanted_end: u64, len: u64) -> Self {
        Self::Truncated {
            at,
            file: file.to_owned(),
            wanted_end,
            len,
        }
    }

    /// Whether there is no such file, as opposed to one that cannot be read.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::NotFound { .. } | Self::NotCached { .. })
    }
}
