//! A model on the Hugging Face hub, in the cache that Python's `huggingface_hub` uses.
//!
//! ```text
//! revision ─► commit   once: asked of the hub, or read from refs/ when offline
//! commit + file ─► models--org--name/snapshots/<commit>/<file>   downloaded when first read
//! ```
//!
//! A branch moves. The first file settles which commit is meant, and every later file is of that
//! commit, or index and shards could come from two savings. Lengths come from the hub's list of
//! files, so asking for a length downloads nothing.
//!
//! Headers are peeked at: opening a checkpoint brings its small files and the first bytes of each
//! shard, and a shard is downloaded when a weight of it is read.
//!
//! # What is `hf-hub`'s, and what is not
//!
//! `hf-hub` 0.5 knows the cache's layout, the addresses, and has the HTTP agent with the token. The
//! bytes are moved here: left to itself, that crate asks for the branch with each file and so mixes
//! commits, downloads a blob again that another commit already has, never compares the length of
//! what came with what was announced, cannot be stopped, and sends the token to the host that a
//! file's bytes are on.
//!
//! # In this folder
//!
//! the source; addresses of models; its builder; redirects; the list of files; requests for bytes; downloads; requests that write.

mod address;

mod builder;

mod redirect;

mod listing;

mod request;

mod download;

mod hook;

#[cfg(feature = "remote")]
mod stream;
mod writing;

use core::fmt;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hf_hub::api::sync::Api;
use hf_hub::{Cache, Repo, RepoType};

pub use builder::HubBuilder;
use hook::Hook;

pub use hook::Download;
pub(crate) use writing::{HubLine, HubRequest};

use crate::{
    config::Reading,
    source::{local::CONCURRENCY, tally::Tally},
};

use super::{
    Access, Bytes, FetchTotals, Local, Probe, Source, SourceError, SourceHints, stays_inside,
};

/// A model on the hub, in the cache that Python's `huggingface_hub` uses.
///
/// A file is downloaded when it is first read; lengths and headers are asked for without. All files
/// are of one commit, that of the revision when the first was asked for.
pub struct Hub {
    id: String,
    revision: String,
    endpoint: String,
    cache: Cache,
    /// `None` offline: what cannot be called cannot leak a request.
    api: Option<Api>,
    with_token: bool,
    retries: usize,
    on_download: Option<Hook>,
    pinned: Mutex<Option<Arc<Pinned>>>,
    /// A lock a file, so that threads wait for one download and not for all.
    downloads: Mutex<HashMap<String, Arc<Mutex<()>>>>,
    /// The first bytes of files that were peeked at and are not in the cache.
    heads: Mutex<HashMap<String, Arc<[u8]>>>,
    /// How the cache is read.
    reading: Reading,
    tally: Arc<Tally>,
}

/// The files of a commit, with their lengths where the hub reports them.
type Listing = BTreeMap<String, Option<u64>>;

/// The one commit that files are taken from.
struct Pinned {
    commit: String,
    local: Local,
    /// FetchTotals when a file is not in the cache; with the commit, where that had to be asked for.
    listing: Mutex<Option<Arc<Listing>>>,
}

impl Hub {
    /// The commit that files are taken from, 40 hexadecimal digits. Asks the hub the first time.
    ///
    /// # Errors
    ///
    /// When model or revision do not exist, may not be read, or cannot be looked up.
    pub fn commit(&self) -> Result<String, SourceError> {
        Ok(self.pin("")?.commit.clone())
    }

    fn repo(&self, revision: &str) -> Repo {
        Repo::with_revision(self.id.clone(), RepoType::Model, revision.to_owned())
    }

    /// `models--org--name`.
    fn folder(&self) -> PathBuf {
        self.cache
            .path()
            .join(self.repo(&self.revision).folder_name())
    }

    /// `file` is named in errors only.
    fn pin(&self, file: &str) -> Result<Arc<Pinned>, SourceError> {
        let mut pinned = lock(&self.pinned);
        if let Some(pinned) = &*pinned {
            return Ok(Arc::clone(pinned));
        }
        let (commit, listing) = self.resolve(file)?;
        let snapshot = self.folder().join("snapshots").join(&commit);
        let found = Arc::new(Pinned {
            local: Local::folder(snapshot.clone()).reading(self.reading),
            listing: Mutex::new(listing.map(Arc::new)),
            commit,
        });
        if snapshot.is_dir() {
            self.note_ref(&found.commit);
        }
        *pinned = Some(Arc::clone(&found));
        Ok(found)
    }

    fn resolve(&self, file: &str) -> Result<(String, Option<Listing>), SourceError> {
        if is_commit(&self.revision) {
            return Ok((self.revision.clone(), None));
        }
        let cached = || {
            let path = self.folder().join("refs").join(&self.revision);
            let commit = std::fs::read_to_string(path).ok()?.trim().to_owned();
            is_commit(&commit).then_some(commit)
        };
        let Some(api) = &self.api else {
            return match cached() {
                Some(commit) => Ok((commit, None)),
                None => Err(self.not_cached(file)),
            };
        };
        match self.fetch_listing(api, &self.revision, file) {
            Ok((commit, listing)) => Ok((commit, Some(listing))),
            // As Python does: a hub that is down is no reason not to use what is here.
            Err(error @ SourceError::Network { .. }) => match cached() {
                Some(commit) => {
                    tracing::warn!(%error, %commit, "cannot reach the hub, using the cached commit");
                    Ok((commit, None))
                }
                None => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    fn check_name(&self, file: &str) -> Result<(), SourceError> {
        if stays_inside(file) {
            return Ok(());
        }
        Err(SourceError::Name {
            at: self.describe(),
            file: file.to_owned(),
        })
    }

    fn not_found(&self, file: &str) -> SourceError {
        SourceError::NotFound {
            at: self.describe(),
            file: file.to_owned(),
        }
    }

    fn not_cached(&self, file: &str) -> SourceError {
        SourceError::NotCached {
            at: self.describe(),
            file: file.to_owned(),
            cache: self.cache.path().display().to_string(),
        }
    }

    fn unauthorized(&self, file: &str, status: u16) -> SourceError {
        SourceError::Unauthorized {
            at: self.describe(),
            file: file.to_owned(),
            status,
            with_token: self.with_token,
        }
    }

    fn network(
        &self,
        file: &str,
        source: impl Into<Box<dyn core::error::Error + Send + Sync>>,
    ) -> SourceError {
        SourceError::Network {
            at: self.describe(),
            file: file.to_owned(),
            endpoint: self.endpoint.clone().into(),
            source: source.into(),
        }
    }

    /// What `read` finds in the cache, after a download where the file is not there yet.
    fn cached<R>(
        &self,
        file: &str,
        mut read: impl FnMut(&Local) -> Result<R, SourceError>,
    ) -> Result<R, SourceError> {
        self.check_name(file)?;
        let pinned = self.pin(file)?;
        match read(&pinned.local) {
            Err(error) if error.is_absent() => {
                self.download(&pinned, file)?;
                read(&pinned.local)
            }
            found => found,
        }
    }
}

impl Source for Hub {
    fn describe(&self) -> String {
        format!("{}@{}", self.id, self.revision)
    }

    fn size(&self, file: &str) -> Result<u64, SourceError> {
        self.check_name(file)?;
        let pinned = self.pin(file)?;
        match pinned.local.size(file) {
            Err(error) if error.is_absent() => {}
            found => return found,
        }
        let Some(api) = &self.api else {
            return Err(self.not_cached(file));
        };
        match self.listing(api, &pinned, file)?.get(file) {
            None => Err(self.not_found(file)),
            Some(Some(size)) => Ok(*size),
            // Some mirrors list names only.
            Some(None) => match self.meta(api, &pinned.commit, file)?.size {
                Some(size) => Ok(size),
                None => {
                    self.download(&pinned, file)?;
                    pinned.local.size(file)
                }
            },
        }
    }

    fn read_at(&self, file: &str, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        self.cached(file, |local| local.read_at(file, offset, into))
    }

    fn hints(&self) -> Option<&dyn SourceHints> {
        Some(self)
    }
}

/// All but the first read of a file come from the cache, which is a folder.
impl SourceHints for Hub {
    fn share(
        &self,
        file: &str,
        offset: u64,
        len: usize,
        access: Access,
    ) -> Result<Option<Bytes>, SourceError> {
        self.cached(file, |local| local.share(file, offset, len, access))
    }

    fn peek(&self, file: &str, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        self.check_name(file)?;
        let pinned = self.pin(file)?;
        match (pinned.local.peek(file, offset, into), &self.api) {
            (Err(error), None) if error.is_absent() => Err(self.not_cached(file)),
            (Err(error), Some(api)) if error.is_absent() => {
                self.peek_remote(api, &pinned, file, offset, into)
            }
            (read, _) => read,
        }
    }

    fn version(&self) -> Result<Option<String>, SourceError> {
        self.commit().map(Some)
    }

    fn unchanged(&self) -> Result<(), SourceError> {
        self.pin("")?.local.unchanged()
    }

    /// Those of the commit; offline, those of it that are in the cache.
    fn list(&self) -> Result<Option<Vec<String>>, SourceError> {
        let pinned = self.pin("")?;
        match &self.api {
            None => pinned.local.list(),
            Some(api) => {
                let listing = self.listing(api, &pinned, "")?;
                Ok(Some(listing.keys().cloned().collect()))
            }
        }
    }

    fn probe(&self) -> Option<Probe> {
        lock(&self.pinned).as_ref()?.local.probe()
    }

    fn weights_file(&self) -> Option<&str> {
        None
    }

    fn concurrency(&self) -> usize {
        CONCURRENCY
    }

    fn request_bytes(&self) -> Option<u64> {
        None
    }

    fn fetched(&self) -> Option<FetchTotals> {
        self.api.as_ref().map(|_| self.tally.fetched())
    }
}

/// Written by hand: `hf-hub` prints its headers, and the token is one of them.
impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub")
            .field("id", &self.id)
            .field("revision", &self.revision)
            .field("endpoint", &self.endpoint)
            .field("cache", &self.cache.path())
            .field("offline", &self.api.is_none())
            .field("with_token", &self.with_token)
            .finish_non_exhaustive()
    }
}

/// 40 hexadecimal digits: a git commit, and safe as a folder's name.
fn is_commit(text: &str) -> bool {
    text.len() == 40
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The first wait before another try.
const WAIT_FIRST: Duration = Duration::from_millis(500);

/// A thread that panicked while it held one of these left nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
