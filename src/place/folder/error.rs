//! Errors of a save.

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use super::identity::Difference;
use crate::{container::ContainerError, dialect::DialectError, source::SourceError};

/// A checkpoint that could not be saved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SaveError {
    /// The folder has files already.
    #[error("{} is not empty; name a folder that is, or does not exist", folder.display())]
    NotEmpty {
        /// The folder.
        folder: PathBuf,
    },
    /// The files of a model in GGUF cannot be these.
    #[error(transparent)]
    Container(Box<ContainerError>),
    /// The folder has an interrupted save, and resuming was not asked for.
    #[error(
        "{} has a save that was interrupted; go on with it (`--resume`, `SaveConfig::resume`), or name another folder",
        folder.display()
    )]
    Unfinished {
        /// The folder.
        folder: PathBuf,
    },
    /// The folder has a complete checkpoint of another source or configuration, or of unknown ones.
    #[error(
        "{} has a complete checkpoint{}: nothing is left to resume; name another folder to save anew",
        folder.display(),
        difference.as_ref().map_or(String::new(), |found| format!(" of another save ({found})"))
    )]
    Complete {
        /// The folder.
        folder: PathBuf,
        /// The first difference; `None` where the folder has no record of its source and configuration.
        difference: Option<Box<Difference>>,
    },
    /// A file of a complete checkpoint is not there any more, or has another length.
    #[error(
        "{}: was saved with {was} bytes and {}; remove its folder, or name another one, to save anew",
        path.display(),
        now.map_or("is missing".to_owned(), |now| format!("has {now}"))
    )]
    Lost {
        /// The file.
        path: PathBuf,
        /// Its bytes when it was saved.
        was: u64,
        /// Its bytes now; `None` where it is missing.
        now: Option<u64>,
    },
    /// A module without the values of a slot.
    #[error(
        "{slot}: the module that is to be saved has no values for it; it is no module of this checkpoint, or its `Architecture::adaptable` and `Architecture::others` do not name all of it"
    )]
    NotInModule {
        /// The slot.
        slot: String,
    },
    /// A module with another number of values for a slot.
    #[error(
        "{slot}: the module that is to be saved has {found} values for it, and the checkpoint's model has {expected:?}; open the checkpoint that the module was loaded from"
    )]
    OtherModule {
        /// The slot.
        slot: String,
        /// Values of the module.
        found: usize,
        /// The shape of the slot.
        expected: Vec<usize>,
    },
    /// Another process is writing the folder.
    #[error("{} is being written by another process; wait until it ends", folder.display())]
    Busy {
        /// The folder.
        folder: PathBuf,
    },
    /// The interrupted save had another source or configuration.
    #[error(
        "{} has a save that was interrupted, and cannot be resumed: {difference}; name another folder to save anew",
        folder.display()
    )]
    Changed {
        /// The folder.
        folder: PathBuf,
        /// The first difference.
        difference: Box<Difference>,
    },
    /// A journal that cannot be used.
    #[error("{}: {reason}; name another folder to save anew", path.display())]
    Journal {
        /// The file.
        path: PathBuf,
        /// The error in it.
        reason: String,
    },
    /// A file could not be written.
    #[error("{}: could not be written: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no room for a file.
    #[error("{}: there is no room for {wanted} more bytes: {source}", path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// Bytes that were to be written next.
        wanted: u64,
        /// The error of the system.
        source: io::Error,
    },
    /// A file of weights is larger than the place can handle.
    #[error(
        "{}: a file of weights would have {bytes} bytes, and this store names complete files of {max} at most; ask for smaller ones \
         (`--shard-size 5GB`, `SaveConfig::shard_bytes`), or save to a folder and `firebox push` it",
        folder.display()
    )]
    ShardTooLarge {
        /// The address.
        folder: PathBuf,
        /// Bytes of the file, about.
        bytes: u64,
        /// The most that it may have.
        max: u64,
    },
    /// The address is none that checkpoints are written to.
    #[error("{}: {reason}", folder.display())]
    Place {
        /// The address.
        folder: PathBuf,
        /// Why.
        reason: &'static str,
    },
    /// The store cannot be reached, or refuses.
    #[error(transparent)]
    Store(#[from] SourceError),
    /// The dialect cannot hold the weights.
    #[error(transparent)]
    Dialect(#[from] DialectError),
    /// No dialect holds these weights side by side, so that they cannot be cached.
    #[error(
        "the packed weights cannot be kept, since no dialect holds them side by side; {dialect} does not: {source}"
    )]
    NotCacheable {
        /// The dialect.
        dialect: &'static str,
        /// The reason.
        source: Box<DialectError>,
    },
}

impl SaveError {
    /// The error for a failed write of `wanted` bytes at `path`.
    pub(super) fn at(path: &Path, wanted: u64) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge
                if wanted > 0 =>
            {
                Self::Full {
                    path,
                    wanted,
                    source,
                }
            }
            _ => Self::Write { path, source },
        }
    }
}

impl core::fmt::Display for Difference {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { field, was, now } = self;
        write!(f, "{field} was {was} and is {now}")
    }
}
