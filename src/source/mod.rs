//! Where a checkpoint's bytes come from, and what they say before a weight is read.
//!
//! ```text
//! Source  (local folder | hub | memory | your own)         names and byte ranges; the only I/O
//!   │
//!   ├─ config.json ───────────────────────────────► serde_json::Value
//!   ├─ model.safetensors.index.json ─► index ─────► Index ──┐
//!   └─ the first bytes of each shard ─► header ───► Header ─┴─► catalog ─► Catalog
//!
//! Checkpoint::open(source)   asks the source, hands the bytes to the parsers, keeps the results
//! ```
//!
//! The parsers ([`header`], [`Index`], [`Catalog`]) do no I/O: bytes in, values out. What they
//! accept has been checked, so whoever reads a tensor later need not check its range again.
//!
//! A source of one's own is three short methods: see [`Source`].

mod local;
mod memory;

#[cfg(feature = "hub")]
mod hub;

mod pairs;

mod dtype;

pub mod header;

mod index;

mod catalog;

pub(crate) mod checkpoint;

pub use bytes::Bytes;
pub use catalog::{Catalog, CatalogError, TensorInfo};
pub use checkpoint::{Checkpoint, CheckpointError, WeightFile};
pub use dtype::StoredType;
pub use header::{Entry, Header, HeaderError};
#[cfg(feature = "hub")]
pub use hub::{Download, Hub, HubBuilder};
pub use index::{Index, IndexError};
pub use local::{Local, Probe};
pub use memory::{Fault, Memory};

/// The most that [`SourceExt::read`] reads at once, in bytes: 128 MiB.
///
/// It serves configurations, indexes and tokenizers, of which the largest in use are below 40 MB.
/// Weights are read in pieces by [`Source::read_at`], which has no such limit.
pub const SMALL_FILE_BYTES_MAX: u64 = 128 << 20;

/// The files of one model: how long each is, and any range of its bytes.
///
/// # Contract
///
/// This trait lies between a place that holds files and this crate. Convenience for callers is in
/// [`SourceExt`], which every source has.
///
/// * Names are relative and use `/`. A source refuses one that leads out of the model
///   ([`SourceError::Name`]): names come from an index file that somebody else wrote.
/// * All methods are called from several threads at once, in no particular order.
/// * A file does not change while its source lives. A source over something that can change (a
///   branch on the hub) settles on one state at the first file and keeps to it.
/// * The first read of a file may take long: the hub downloads it then.
pub trait Source: core::fmt::Debug + Send + Sync {
    /// Where this is, for messages: a folder, `org/name@revision`. Never a secret.
    fn describe(&self) -> String;

    /// The length of a file in bytes.
    ///
    /// # Errors
    ///
    /// [`SourceError::NotFound`] when the source is certain that there is no such file.
    fn size(&self, file: &str) -> Result<u64, SourceError>;

    /// Fills all of `into` with the bytes of `file` that start at `offset`.
    ///
    /// There are no short reads: the result is every byte or an error, and after an error the
    /// contents of `into` mean nothing.
    ///
    /// # Errors
    ///
    /// [`SourceError::Truncated`] when the range ends after the file does.
    fn read_at(&self, file: &str, offset: u64, into: &mut [u8]) -> Result<(), SourceError>;

    /// Like [`read_at`](Self::read_at), for a few bytes of a file whose rest may never be wanted:
    /// its header.
    ///
    /// A source that keeps whole files (the hub, its cache) overrides this and fetches no more than
    /// these bytes. A source that wraps another should forward it.
    ///
    /// # Errors
    ///
    /// Like [`read_at`](Self::read_at).
    fn peek(&self, file: &str, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        self.read_at(file, offset, into)
    }

    /// The `len` bytes of `file` that start at `offset`, where they lie in memory that may be kept for as long as the model
    /// lives: a map. `None` where they have to be read. A source that wraps another should forward it.
    ///
    /// # Errors
    ///
    /// As [`read_at`](Self::read_at).
    fn share(
        &self,
        _file: &str,
        _offset: u64,
        _len: usize,
        _access: Access,
    ) -> Result<Option<Bytes>, SourceError> {
        Ok(None)
    }

    /// What names the state of all files, where something does: the commit of a model on the hub. The same name is
    /// the same bytes, always; without one, bytes have to be compared. A source that wraps another may forward it.
    ///
    /// # Errors
    ///
    /// When it cannot be looked up.
    fn version(&self) -> Result<Option<String>, SourceError> {
        Ok(None)
    }

    /// How the weights are read and why, once that was looked into.
    ///
    /// A source that wraps another should forward it.
    fn probe(&self) -> Option<Probe> {
        None
    }

    /// The weights file that the user named, when it was a file and not a model that was named.
    ///
    /// Then this file is all the weights, whatever lies beside it. A source that wraps another
    /// must forward this.
    fn weights_file(&self) -> Option<&str> {
        None
    }
}

/// What [shared](Source::share) memory is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Looked at once, in order: a weight that is converted.
    Once,
    /// Kept, and looked at again and again: a weight of a model.
    Often,
}

/// What callers of a [`Source`] want besides. Implemented for every source; not to be implemented.
pub trait SourceExt: Source {
    /// A whole small file.
    ///
    /// # Errors
    ///
    /// [`SourceError::TooLarge`] above [`SMALL_FILE_BYTES_MAX`], before anything is allocated.
    fn read(&self, file: &str) -> Result<Vec<u8>, SourceError> {
        let len = self.size(file)?;
        let too_large = || SourceError::TooLarge {
            at: self.describe(),
            file: file.to_owned(),
            len,
            max: SMALL_FILE_BYTES_MAX,
        };
        if len > SMALL_FILE_BYTES_MAX {
            return Err(too_large());
        }
        let mut bytes = vec![0; usize::try_from(len).map_err(|_| too_large())?];
        self.read_at(file, 0, &mut bytes)?;
        Ok(bytes)
    }

    /// A whole small file, or `None` when there is none.
    ///
    /// A file that the cache lacks while offline counts as none: nobody can say then whether the
    /// model has it, and a model without its optional files must still open offline.
    ///
    /// # Errors
    ///
    /// Like [`read`](Self::read), for any other reason than the file's absence.
    fn read_optional(&self, file: &str) -> Result<Option<Vec<u8>>, SourceError> {
        match self.read(file) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.is_absent() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl<S: Source + ?Sized> SourceExt for S {}

/// A file that could not be had. Variants by what the caller can do about it; each names the file
/// and the source (`at`, its [`Source::describe`]).
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

    /// A file that should be small is not.
    #[error("{at}/{file}: {len} bytes, and a file that is read whole may have {max}")]
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

    /// Something else than a file has this name.
    #[error("{at}/{file}: is {found}, not a regular file")]
    NotAFile {
        /// The source.
        at: String,
        /// The name.
        file: String,
        /// What it is.
        found: &'static str,
    },

    /// The operating system refused.
    #[error("{at}/{file}: {source}")]
    Io {
        /// The source.
        at: String,
        /// The file.
        file: String,
        /// What the system said.
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
        /// What the system said.
        source: std::io::Error,
    },

    /// A path was given that is neither a folder nor a safetensors file.
    #[error("{path}: {found}; give a model's folder or one .safetensors file")]
    NotAModelPath {
        /// The path as it was given.
        path: String,
        /// What is there instead.
        found: &'static str,
    },

    /// A name that is nothing on disk, and no model of the hub that could be looked up.
    #[error("no folder or file {name:?} exists here, and as a model of the hub: {source}")]
    NotHere {
        /// The name as it was given.
        name: String,
        /// What the hub said.
        source: Box<SourceError>,
    },

    /// A model id or revision that cannot be one.
    #[error("{given:?} is not a {what}: {why}")]
    BadId {
        /// The text as it was given.
        given: String,
        /// `"model id"` or `"revision"`.
        what: &'static str,
        /// The rule that it breaks.
        why: &'static str,
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

    /// Whoever is told of downloads asked to stop.
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

    /// The hub could not be reached, or did not keep to its protocol.
    #[error("{at}/{file}: {endpoint} failed: {source}")]
    Network {
        /// The source.
        at: String,
        /// The file.
        file: String,
        /// The hub.
        endpoint: String,
        /// The last of the failures.
        source: Box<dyn core::error::Error + Send + Sync>,
    },
}

impl SourceError {
    /// A read of `file` of `at` up to `wanted_end`, when it ends at `len`.
    fn truncated(at: &dyn Source, file: &str, wanted_end: u64, len: u64) -> Self {
        Self::Truncated {
            at: at.describe(),
            file: file.to_owned(),
            wanted_end,
            len,
        }
    }

    /// Whether the file is not to be had, as opposed to there and unreadable.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::NotFound { .. } | Self::NotCached { .. })
    }
}

/// Whether `name` stays inside the folder that it is joined to.
///
/// Stricter than the operating system, and the same on each: a backslash is a separator on one of
/// them, and a colon can name a drive there. `.` and empty parts are refused because two spellings
/// of one file would be two files in a catalog.
fn stays_inside(name: &str) -> bool {
    !name.contains(['\\', ':', '\0'])
        && name
            .split('/')
            .all(|part| !part.is_empty() && part != "." && part != "..")
}
