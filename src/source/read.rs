//! The files of one model: the only input and output of this room.

use bytes::Bytes;

use super::{error::SourceError, fetched::FetchTotals, probe::Probe};

/// The most that [`SourceExt::read`] reads at once, in bytes: 128 MiB.
///
/// It serves configurations, indexes and tokenizers, of which the largest in use are below 40 MB.
/// Weights are read in pieces by [`Source::read_at`], which has no such limit.
pub const SMALL_FILE_BYTES_MAX: u64 = 128 << 20;

/// Threads that read at once where the source does not say: more win nothing on a disk or from the page cache.
const CONCURRENCY: usize = 2;

/// The files of one model: how long each is, and any range of its bytes.
///
/// # Contract
///
/// A custom source has three methods to write. What it can do beyond them (map files, name their state, read many
/// ranges at once) it says in [`SourceHints`]. Callers find both in [`SourceExt`], which every source has.
///
/// * Names are relative and use `/`. A source refuses one that leads out of the model
///   ([`SourceError::Name`]): names come from the index file of the checkpoint.
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

    /// More that this source can do, if anything. A source that wraps another returns the hints of the inner one, or its
    /// own if it has to see every read.
    fn hints(&self) -> Option<&dyn SourceHints> {
        None
    }
}

/// What a source can do beyond reading. No method has a default, so that a source that wraps another decides about each
/// of them.
pub trait SourceHints: Send + Sync {
    /// Like [`read_at`](Source::read_at), for a few bytes of a file whose rest may never be wanted: its header. A source
    /// that fetches whole files (the hub, its cache) fetches no more than these bytes.
    ///
    /// # Errors
    ///
    /// Like [`read_at`](Source::read_at).
    fn peek(&self, file: &str, offset: u64, into: &mut [u8]) -> Result<(), SourceError>;

    /// The `len` bytes of `file` that start at `offset`, where they lie in memory that may be kept for as long as the
    /// model lives: a map. `None` where they have to be read.
    ///
    /// # Errors
    ///
    /// As [`read_at`](Source::read_at).
    fn share(
        &self,
        file: &str,
        offset: u64,
        len: usize,
        access: Access,
    ) -> Result<Option<Bytes>, SourceError>;

    /// A name for the state of all files, such as the commit of a model on the hub: the same name always means the same
    /// bytes. `None` where nothing names it, so that bytes have to be compared.
    ///
    /// # Errors
    ///
    /// When it cannot be looked up.
    fn version(&self) -> Result<Option<String>, SourceError>;

    /// How the weights are read and why, once that was looked into.
    fn probe(&self) -> Option<Probe>;

    /// The weights file that the user named, when a file and not a model was named. Then this file is all the weights,
    /// and files beside it are ignored.
    fn weights_file(&self) -> Option<&str>;

    /// The names of all files, folders inside included, sorted; `None` where nobody can list them. What does not look like
    /// a file of a model may be missing: a folder on disk is listed one folder deep.
    ///
    /// # Errors
    ///
    /// When the list cannot be read.
    fn list(&self) -> Result<Option<Vec<String>>, SourceError>;

    /// Refuses files that another program has changed since they were first read: what was read may be of two states.
    ///
    /// # Errors
    ///
    /// [`SourceError::Changed`], and errors of asking.
    fn unchanged(&self) -> Result<(), SourceError>;

    /// Reads that should be under way at once: 2 for a disk, more where an answer takes long and many are served at once.
    fn concurrency(&self) -> usize;

    /// Bytes that a read of weights had better have where each read is a request to a server: neighbouring tensors are then read
    /// together. `None` where small reads cost no more than their bytes, as on a disk.
    fn request_bytes(&self) -> Option<u64>;

    /// What came over the network so far; `None` where nothing does.
    fn fetched(&self) -> Option<FetchTotals>;
}

/// What the bytes that a source [shares](SourceHints::share) are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read once, in order: a weight that is converted.
    Once,
    /// Kept and read again and again: a weight of a model.
    Often,
}

/// Conveniences for callers of a [`Source`]. Implemented for every source; not to be implemented.
pub trait SourceExt: Source {
    /// A whole small file.
    ///
    /// # Errors
    ///
    /// [`SourceError::TooLarge`] above [`SMALL_FILE_BYTES_MAX`], before anything is allocated.
    fn read(&self, file: &str) -> Result<Vec<u8>, SourceError> {
        self.read_within(file, SMALL_FILE_BYTES_MAX)
    }

    /// A whole file of at most `max` bytes.
    ///
    /// # Errors
    ///
    /// [`SourceError::TooLarge`] above `max`, before anything is allocated.
    fn read_within(&self, file: &str, max: u64) -> Result<Vec<u8>, SourceError> {
        let len = self.size(file)?;
        let too_large = || SourceError::TooLarge {
            at: self.describe(),
            file: file.to_owned(),
            len,
            max,
        };
        if len > max {
            return Err(too_large());
        }
        let mut bytes = vec![0; usize::try_from(len).map_err(|_| too_large())?];
        self.read_at(file, 0, &mut bytes)?;
        Ok(bytes)
    }

    /// A whole small file, or `None` when there is none.
    ///
    /// A file that the cache lacks while offline counts as none: it is not known then whether the
    /// model has it, and a model without its optional files must still open offline.
    ///
    /// # Errors
    ///
    /// Like [`read`](Self::read), for any other reason than the file's absence.
    fn read_optional(&self, file: &str) -> Result<Option<Vec<u8>>, SourceError> {
        self.read_optional_within(file, SMALL_FILE_BYTES_MAX)
    }

    /// A whole file of at most `max` bytes, or `None` when there is none, as [`read_optional`](Self::read_optional).
    ///
    /// # Errors
    ///
    /// Like [`read_within`](Self::read_within), for any other reason than the file's absence.
    fn read_optional_within(&self, file: &str, max: u64) -> Result<Option<Vec<u8>>, SourceError> {
        match self.read_within(file, max) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.is_absent() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// [`SourceHints::peek`], or a read.
    ///
    /// # Errors
    ///
    /// Like [`read_at`](Source::read_at).
    fn peek(&self, file: &str, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        match self.hints() {
            Some(hints) => hints.peek(file, offset, into),
            None => self.read_at(file, offset, into),
        }
    }

    /// [`SourceHints::share`], or `None`.
    ///
    /// # Errors
    ///
    /// Like [`read_at`](Source::read_at).
    fn share(
        &self,
        file: &str,
        offset: u64,
        len: usize,
        access: Access,
    ) -> Result<Option<Bytes>, SourceError> {
        let hints = self.hints();
        hints.map_or(Ok(None), |hints| hints.share(file, offset, len, access))
    }

    /// [`SourceHints::version`], or `None`.
    ///
    /// # Errors
    ///
    /// When it cannot be looked up.
    fn version(&self) -> Result<Option<String>, SourceError> {
        self.hints().map_or(Ok(None), SourceHints::version)
    }

    /// [`SourceHints::unchanged`]; a source that has no such hint is believed.
    ///
    /// # Errors
    ///
    /// [`SourceError::Changed`], and errors of asking.
    fn unchanged(&self) -> Result<(), SourceError> {
        self.hints().map_or(Ok(()), SourceHints::unchanged)
    }

    /// [`SourceHints::probe`], or `None`.
    fn probe(&self) -> Option<Probe> {
        self.hints()?.probe()
    }

    /// [`SourceHints::weights_file`], or `None`.
    fn weights_file(&self) -> Option<&str> {
        self.hints()?.weights_file()
    }

    /// [`SourceHints::list`], or `None`.
    ///
    /// # Errors
    ///
    /// When the list cannot be read.
    fn list(&self) -> Result<Option<Vec<String>>, SourceError> {
        self.hints().map_or(Ok(None), SourceHints::list)
    }

    /// [`SourceHints::concurrency`], or 2.
    fn concurrency(&self) -> usize {
        self.hints().map_or(CONCURRENCY, SourceHints::concurrency)
    }

    /// [`SourceHints::request_bytes`], or `None`.
    fn request_bytes(&self) -> Option<u64> {
        self.hints()?.request_bytes()
    }

    /// [`SourceHints::fetched`], or `None`.
    fn fetched(&self) -> Option<FetchTotals> {
        self.hints()?.fetched()
    }
}

impl<S: Source + ?Sized> SourceExt for S {}
