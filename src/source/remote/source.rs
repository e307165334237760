//! The source: lengths, headers and ranges of files in a store.
//!
//! The first request for a file asks for its first bytes, and so tells its length and its ETag; every later answer has to have the
//! same. A read goes on where it was cut.

use core::ops::Range;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use object_store::{GetOptions, GetRange};
use xxhash_rust::xxh3::Xxh3;

use super::{
    address::StoreKind,
    body::{TakenBody, WholeBody},
    cache::RangeCache,
    explain::{code, passes, status},
    failure::RequestFailure,
    file::{FileState, RemoteFile},
    runtime::block_on,
    store::RemoteStore,
};
use crate::source::{
    Access, FetchTotals, Probe, Source, SourceError, SourceHints, backoff::Backoff, is_weights,
    name::CONFIG, stays_inside,
};

/// Bytes of a file that are fetched to learn its length. Most headers are shorter.
const HEAD_BYTES: u64 = 64 << 10;
/// Bytes of one request at most: what was asked for is fetched again from the place where a connection breaks, and a
/// server that is slow should not be held by one request for minutes.
const REQUEST_BYTES_MAX: usize = 32 << 20;
/// Requests that are under way at once: a connection carries 100 MB a second at best, and an answer takes some 50 ms to begin.
const CONCURRENCY: usize = 16;
/// Bytes that a read had better have: below, the wait for an answer takes longer than its bytes.
const REQUEST_BYTES: u64 = 16 << 20;
/// The first wait before another try.
const WAIT_FIRST: Duration = Duration::from_millis(100);
/// The usual name of a GGUF file.
const GGUF: &str = "model.gguf";
/// Files of a list at most.
const LIST_MAX: usize = 20_000;

/// A model in an object store or behind plain HTTP, which is read where it is: nothing is kept on disk.
///
/// ```no_run
/// use std::sync::Arc;
/// use firebox::source::{Checkpoint, Remote};
///
/// let source = Remote::open("s3://models/tinyrust")?;
/// let checkpoint = Checkpoint::open(Arc::new(source))?;
/// println!("{} tensors", checkpoint.catalog().len());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Remote {
    store: RemoteStore,
    retries: usize,
    files: Mutex<HashMap<String, FileSlot>>,
    cache: Option<RangeCache>,
    /// The GGUF file that is all of the model, once it was looked for.
    found: OnceLock<Option<&'static str>>,
}

/// A file that was asked for; `None` inside where there is no such file. The lock keeps a second thread from asking too.
type FileSlot = Arc<Mutex<Option<Option<Arc<RemoteFile>>>>>;

/// How one request ended that did not bring all.
enum Miss {
    Store(object_store::Error),
    /// The file is another one.
    Replaced(String),
    /// The answer ended early.
    Short,
}

impl From<object_store::Error> for Miss {
    fn from(error: object_store::Error) -> Self {
        Self::Store(error)
    }
}

impl Remote {
    pub(super) fn new(store: RemoteStore, retries: usize, cache: Option<RangeCache>) -> Self {
        Self {
            store,
            retries,
            files: Mutex::default(),
            cache,
            found: OnceLock::new(),
        }
    }

    /// A model on the hub.
    pub(crate) fn of_hub(store: RemoteStore, retries: usize) -> Self {
        Self::new(store, retries, None)
    }

    /// The same, with parts of files kept in `folder`, at most `limit` bytes of them.
    ///
    /// # Errors
    ///
    /// [`SourceError::Io`] where the folder cannot be made.
    pub(crate) fn cached(mut self, folder: &Path, limit: u64) -> Result<Self, SourceError> {
        let made = RangeCache::new(folder, limit);
        self.cache = Some(made.map_err(|source| SourceError::Io {
            at: folder.display().to_string(),
            file: String::new(),
            source,
        })?);
        Ok(self)
    }

    /// A file, which is asked for the first time it is named.
    fn file(&self, file: &str) -> Result<Arc<RemoteFile>, SourceError> {
        let at = || self.store.at.clone();
        if !stays_inside(file) {
            let file = file.to_owned();
            return Err(SourceError::Name { at: at(), file });
        }
        let slot = Arc::clone(lock(&self.files).entry(file.to_owned()).or_default());
        let mut slot = lock(&slot);
        let found = match &*slot {
            Some(found) => found.clone(),
            None if self.is_unlisted(file) => slot.insert(None).clone(),
            None => {
                let found = match self.ask(file) {
                    Err(SourceError::NotFound { .. }) => None,
                    found => Some(Arc::new(found?)),
                };
                slot.insert(found).clone()
            }
        };
        found.ok_or_else(|| SourceError::NotFound {
            at: at(),
            file: file.to_owned(),
        })
    }

    /// Asks for the first bytes of a file.
    fn ask(&self, file: &str) -> Result<RemoteFile, SourceError> {
        let path = self.store.path(file);
        let mut wait = Backoff::new(self.retries, WAIT_FIRST);
        loop {
            let asked = self.wait_for(file, async {
                let options = ranged(0..HEAD_BYTES, None);
                let answer = self.store.store.get_opts(&path, options).await?;
                let (len, state) = (answer.meta.size, FileState::of(&answer.meta));
                let mut head = Vec::new();
                let mut frames = answer.into_stream();
                // Whatever comes of the first bytes is enough: the others are read where they are wanted.
                while let Some(Ok(frame)) = frames.next().await {
                    head.extend_from_slice(&frame);
                }
                Ok(RemoteFile::new(len, state, head))
            })?;
            let error = match asked {
                Ok(found) => return Ok(found),
                Err(Miss::Store(error)) if status(&error) == Some(416) => {
                    // Of an empty file there is no first byte.
                    return Ok(RemoteFile::new(0, FileState::Unknown, Vec::new()));
                }
                Err(Miss::Store(error)) if self.is_hidden(&error) => {
                    let (at, file) = (self.store.at.clone(), file.to_owned());
                    return Err(SourceError::NotFound { at, file });
                }
                Err(miss) => miss,
            };
            if !self.again(&error, &mut wait) {
                return Err(self.missed(file, None, error));
            }
        }
    }

    /// Whether the hub has said that there is no such file.
    fn is_unlisted(&self, file: &str) -> bool {
        let hub = self.store.hub.as_ref();
        hub.is_some_and(|hub| hub.names.iter().all(|name| name != file))
    }

    /// Whether an answer may mean that there is no such file: S3 says so to those who may not list a bucket. Once a file was read,
    /// the keys are good.
    fn is_hidden(&self, error: &object_store::Error) -> bool {
        let denied = matches!(error, object_store::Error::PermissionDenied { .. });
        let said = denied && code(error).is_none_or(|code| code == "AccessDenied");
        said && self.store.kind == StoreKind::S3 && self.has_read()
    }

    fn has_read(&self) -> bool {
        let slots: Vec<FileSlot> = lock(&self.files).values().cloned().collect();
        // The one that is asked for is locked.
        let read = |slot: &FileSlot| {
            slot.try_lock()
                .is_ok_and(|slot| matches!(&*slot, Some(Some(_))))
        };
        slots.iter().any(read)
    }

    /// Fills `into` from `start` on, as often as it takes.
    fn fetch(
        &self,
        name: &str,
        file: &RemoteFile,
        start: u64,
        into: &mut [u8],
    ) -> Result<(), SourceError> {
        let path = self.store.path(name);
        let mut start = start;
        for into in into.chunks_mut(REQUEST_BYTES_MAX) {
            let mut wait = Backoff::new(self.retries, WAIT_FIRST);
            let mut done = 0;
            loop {
                let before = done;
                let range = start + done as u64..start + into.len() as u64;
                let rest = &mut into[done..];
                let (tried, read) = self.wait_for(name, self.fill(&path, file, range, rest))?;
                done += read;
                let miss = match tried {
                    Ok(()) => break,
                    Err(Miss::Store(object_store::Error::Precondition { .. })) => {
                        Miss::Replaced("another ETag".to_owned())
                    }
                    Err(miss) => miss,
                };
                if done > before {
                    wait.reset();
                }
                if !self.again(&miss, &mut wait) {
                    return Err(self.missed(name, Some(file), miss));
                }
            }
            start += into.len() as u64;
        }
        Ok(())
    }

    /// One request for a range, and how many bytes it brought.
    async fn fill(
        &self,
        path: &object_store::path::Path,
        file: &RemoteFile,
        range: Range<u64>,
        into: &mut [u8],
    ) -> (Result<(), Miss>, usize) {
        let mut done = 0;
        let filled = async {
            // The bytes of the hub are elsewhere, and have other ETags there.
            let condition = file.state.condition().filter(|_| self.store.hub.is_none());
            let mut options = ranged(range, condition);
            options.extensions.insert(WholeBody);
            let answer = self.store.store.get_opts(path, options).await?;
            let state = FileState::of(&answer.meta);
            if (answer.meta.size, &state) != (file.len, &file.state) {
                return Err(Miss::Replaced(state.said(answer.meta.size)));
            }
            let body = answer.extensions.get::<TakenBody>();
            let Some(mut body) = body.and_then(TakenBody::take) else {
                return Err(Miss::Short);
            };
            // A server that has announced more is not waited for.
            while done < into.len() {
                match body.read(&mut into[done..]) {
                    Ok(0) => break,
                    Ok(read) => done += read,
                    Err(failure) => return Err(Miss::Store(failed(failure))),
                }
            }
            match done == into.len() {
                true => Ok(()),
                false => Err(Miss::Short),
            }
        };
        let filled = filled.await;
        (filled, done)
    }

    /// Waits, where another try may help and there is one left.
    fn again(&self, miss: &Miss, wait: &mut Backoff) -> bool {
        let passes = match miss {
            Miss::Store(error) => passes(error) && (!self.store.keyless || self.has_read()),
            Miss::Short => true,
            Miss::Replaced(_) => false,
        };
        passes && wait.again()
    }

    fn missed(&self, name: &str, file: Option<&RemoteFile>, miss: Miss) -> SourceError {
        match miss {
            Miss::Store(error) => self.store.explain(name, error),
            Miss::Short => self
                .store
                .network(name, "it sent less than it announced".to_owned()),
            Miss::Replaced(now) => SourceError::Replaced {
                at: self.store.at.clone(),
                file: name.to_owned(),
                was: file.map_or("another file".into(), |file| {
                    file.state.said(file.len).into()
                }),
                now: now.into(),
            },
        }
    }

    fn wait_for<F>(&self, file: &str, future: F) -> Result<F::Output, SourceError>
    where
        F: Future + Send,
        F::Output: Send,
    {
        block_on(future).map_err(|source| SourceError::Io {
            at: self.store.at.clone(),
            file: file.to_owned(),
            source,
        })
    }

    /// Fills `into` from what is known of the beginning of a file, and from the store. `keep` keeps what is fetched.
    fn read(
        &self,
        name: &str,
        offset: u64,
        into: &mut [u8],
        keep: bool,
    ) -> Result<(), SourceError> {
        let file = self.file(name)?;
        let end = offset.saturating_add(into.len() as u64);
        if end > file.len {
            let at = self.store.at.clone();
            return Err(SourceError::truncated(at, name, end, file.len));
        }
        let known = file.known(offset, into);
        let rest = &mut into[known..];
        if rest.is_empty() {
            return Ok(());
        }
        let start = offset + known as u64;
        match &self.cache {
            None => self.fetch(name, &file, start, rest)?,
            // Without an ETag or a time it could be another file by now.
            Some(_) if file.state == FileState::Unknown => self.fetch(name, &file, start, rest)?,
            Some(cache) => {
                let state = format!("{}/{name}: {}", self.store.at, file.state.said(file.len));
                cache.read(&state, file.len, start, rest, &|at, into| {
                    self.fetch(name, &file, at, into)
                })?;
            }
        }
        if keep {
            file.keep(start, rest);
        }
        Ok(())
    }
}

/// A failure as the errors of a store have it.
fn failed(failure: RequestFailure) -> object_store::Error {
    object_store::Error::Generic {
        store: "HTTP",
        source: Box::new(failure),
    }
}

fn ranged(range: Range<u64>, if_match: Option<String>) -> GetOptions {
    GetOptions {
        range: Some(GetRange::Bounded(range)),
        if_match,
        ..GetOptions::default()
    }
}

impl Source for Remote {
    fn describe(&self) -> String {
        self.store.at.clone()
    }

    fn size(&self, file: &str) -> Result<u64, SourceError> {
        Ok(self.file(file)?.len)
    }

    /// Small files are kept, since a save reads them twice.
    fn read_at(&self, file: &str, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        self.read(file, offset, into, !is_weights(file))
    }

    fn hints(&self) -> Option<&dyn SourceHints> {
        Some(self)
    }
}

impl SourceHints for Remote {
    fn peek(&self, file: &str, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        self.read(file, offset, into, true)
    }

    fn share(&self, _: &str, _: u64, _: usize, _: Access) -> Result<Option<Bytes>, SourceError> {
        Ok(None)
    }

    /// Of the files of weights that were looked at: their names, lengths and ETags, or the times of their last change.
    fn version(&self) -> Result<Option<String>, SourceError> {
        if let Some(hub) = &self.store.hub {
            return Ok(Some(hub.commit.clone()));
        }
        let files: Vec<(String, FileSlot)> = lock(&self.files).clone().into_iter().collect();
        let mut states = Vec::new();
        for (name, slot) in files {
            let Some(Some(file)) = lock(&slot).clone() else {
                continue;
            };
            if !is_weights(&name) {
                continue;
            }
            if file.state == FileState::Unknown {
                return Ok(None);
            }
            states.push(format!("{name}: {}\n", file.state.said(file.len)));
        }
        states.sort();
        let mut hash = Xxh3::new();
        states
            .iter()
            .for_each(|state| hash.update(state.as_bytes()));
        Ok((!states.is_empty()).then(|| format!("etags {:032x}", hash.digest128())))
    }

    fn probe(&self) -> Option<Probe> {
        None
    }

    /// The file that the address names, or the GGUF file of a folder that is no model without it: nobody can list the folder.
    fn weights_file(&self) -> Option<&str> {
        let found = self.found.get_or_init(|| {
            let is_absent = |file: &str| self.size(file).is_err_and(|error| error.is_absent());
            let is_gguf = self.store.file.is_none() && is_absent(CONFIG) && self.size(GGUF).is_ok();
            is_gguf.then_some(GGUF)
        });
        self.store.file.as_deref().or(*found)
    }

    /// Those that the store lists; a server of plain HTTP lists none.
    fn list(&self) -> Result<Option<Vec<String>>, SourceError> {
        if let Some(hub) = &self.store.hub {
            return Ok(Some(hub.names.clone()));
        }
        if self.store.kind == StoreKind::Http {
            return Ok(None);
        }
        let folder = &self.store.folder;
        let listed = self.wait_for("", async {
            let listed = self.store.store.list(Some(folder)).take(LIST_MAX);
            listed.try_collect::<Vec<_>>().await
        })?;
        match listed {
            Ok(found) => {
                let names = found.iter().filter_map(|meta| {
                    let parts: Vec<_> = meta.location.prefix_match(folder)?.collect();
                    let names: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
                    Some(names.join("/"))
                });
                let mut names: Vec<String> = names.collect();
                names.sort();
                Ok(Some(names))
            }
            // Many may read a bucket and not list it.
            Err(
                object_store::Error::PermissionDenied { .. }
                | object_store::Error::Unauthenticated { .. }
                | object_store::Error::NotFound { .. }
                | object_store::Error::NotImplemented { .. }
                | object_store::Error::NotSupported { .. },
            ) => Ok(None),
            Err(error) => Err(self.store.explain("", error)),
        }
    }

    /// Each answer was compared with the first one.
    fn unchanged(&self) -> Result<(), SourceError> {
        Ok(())
    }

    fn concurrency(&self) -> usize {
        CONCURRENCY
    }

    fn request_bytes(&self) -> Option<u64> {
        Some(REQUEST_BYTES)
    }

    fn fetched(&self) -> Option<FetchTotals> {
        Some(self.store.line.tally.fetched())
    }
}

/// A thread that panicked while it held one of these left nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
