//! Files into the cache.
//!
//! ```text
//! blobs/<etag>.part ─► blobs/<etag> ◄── snapshots/<commit>/<file>, a link
//! ```
//!
//! A part is appended to, under the lock `blobs/<etag>.lock`, and goes on where it ended when a
//! download was interrupted or stopped.

use core::ops::ControlFlow;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hf_hub::api::sync::Api;

use super::{Hub, Pinned, WAIT_FIRST, hook::Download, is_commit, lock};
use crate::source::{Source, SourceError, backoff::Backoff};

/// How long to wait while another process downloads the same file.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(600);

/// How often to look whether it has finished.
const LOCK_LOOK: Duration = Duration::from_millis(200);

/// The shortest time between two calls of [`HubBuilder::on_download`](super::HubBuilder), but for
/// the first and the last of a file.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// Bytes that are read from the network at once.
const CHUNK_BYTES: usize = 256 << 10;

impl Hub {
    /// Makes `file` of the pinned commit a local file. It is not one now.
    pub(super) fn download(&self, pinned: &Pinned, file: &str) -> Result<(), SourceError> {
        let Some(api) = &self.api else {
            return Err(self.not_cached(file));
        };
        let Some(&size) = self.listing(api, pinned, file)?.get(file) else {
            return Err(self.not_found(file));
        };
        let gate = Arc::clone(lock(&self.downloads).entry(file.to_owned()).or_default());
        let _gate = lock(&gate);
        // Another thread may have been faster.
        match pinned.local.size(file) {
            Err(error) if error.is_absent() => {}
            found => return found.map(|_| ()),
        }

        let mut wait = Backoff::new(self.retries, WAIT_FIRST);
        let brought = loop {
            match self.try_download(api, pinned, file, size) {
                Ok(brought) => break brought,
                Err(SourceError::Network { .. }) if wait.again() => {}
                Err(error) => return Err(error),
            }
        };

        let len = pinned.local.size(file)?;
        if let Some(size) = size
            && len != size
        {
            self.drop_file(pinned, file);
            return Err(SourceError::truncated(self.describe(), file, size, len));
        }
        self.note_ref(&pinned.commit);
        lock(&self.heads).remove(file);
        match brought {
            true => self.tell(file, len, len),
            false => Ok(()),
        }
    }

    /// Whether anything had to be brought: not when there is a blob already.
    fn try_download(
        &self,
        api: &Api,
        pinned: &Pinned,
        file: &str,
        listed: Option<u64>,
    ) -> Result<bool, SourceError> {
        let meta = self.meta(api, &pinned.commit, file)?;
        let Some(total) = meta.size.or(listed) else {
            return Err(self.network(file, "it does not tell the file's length"));
        };
        let disk = |error| self.disk(file, error);
        let blobs = self.folder().join("blobs");
        std::fs::create_dir_all(&blobs).map_err(disk)?;
        let blob = blobs.join(&meta.etag);
        let complete = || blob.metadata().is_ok_and(|blob| blob.len() == total);

        // A blob that an earlier commit brought, or another process meanwhile, is as good.
        let mut brought = false;
        if !complete() {
            let part = beside(&blob, "part");
            let _lock = self.lock_blob(file, &blob, &part, total)?;
            if !complete() {
                self.transfer(api, &pinned.commit, file, &part, total)?;
                std::fs::rename(&part, &blob).map_err(disk)?;
                brought = true;
            }
        }
        link(pinned.local.path(), file, &blob).map_err(disk)?;
        Ok(brought)
    }

    /// Appends what `part` lacks.
    fn transfer(
        &self,
        api: &Api,
        commit: &str,
        file: &str,
        part: &Path,
        total: u64,
    ) -> Result<(), SourceError> {
        let disk = |error| self.disk(file, error);
        let mut options = OpenOptions::new();
        let mut into = options.create(true).append(true).open(part).map_err(disk)?;
        let mut done = into.metadata().map_err(disk)?.len();
        if done > total {
            into.set_len(0).map_err(disk)?;
            done = 0;
        }
        tracing::info!(id = %self.id, %commit, %file, done, total, "downloading");
        self.tell(file, done, total)?;
        let mut told = Instant::now();
        if done == total {
            return Ok(());
        }
        let body = self.body(api, commit, file, &format!("bytes={done}-"), done)?;
        // One byte more than announced is enough to know that the answer is another file.
        let mut body = body.take(total - done + 1);
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let read = body
                .read(&mut chunk)
                .map_err(|error| self.network(file, error))?;
            if read == 0 {
                break;
            }
            self.tally.bytes(read);
            if done + read as u64 > total {
                into.set_len(0).map_err(disk)?;
                let why = format!("it sends more than the {total} bytes that it announced");
                return Err(self.network(file, why));
            }
            into.write_all(&chunk[..read]).map_err(disk)?;
            done += read as u64;
            if told.elapsed() >= TELL_EVERY && done < total {
                self.tell(file, done, total)?;
                told = Instant::now();
            }
        }
        if done == total {
            return Ok(());
        }
        Err(self.network(file, format!("it sent {done} bytes of {total}")))
    }

    fn tell(&self, file: &str, done: u64, total: u64) -> Result<(), SourceError> {
        let Some(hook) = &self.on_download else {
            return Ok(());
        };
        match (hook.0)(&Download { file, done, total }) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(SourceError::Cancelled {
                at: self.describe(),
                file: file.to_owned(),
                done,
                total,
            }),
        }
    }

    /// The right to append to `part`, which other processes are kept from while the result lives.
    fn lock_blob(
        &self,
        file: &str,
        blob: &Path,
        part: &Path,
        total: u64,
    ) -> Result<File, SourceError> {
        let disk = |error| self.disk(file, error);
        let held = File::create(beside(blob, "lock")).map_err(disk)?;
        let start = Instant::now();
        loop {
            match held.try_lock() {
                Ok(()) => return Ok(held),
                Err(TryLockError::Error(error)) => return Err(disk(error)),
                Err(TryLockError::WouldBlock) if start.elapsed() > LOCK_WAIT_MAX => {
                    return Err(self.network(file, "another process still downloads it"));
                }
                Err(TryLockError::WouldBlock) => {
                    let done = part.metadata().map_or(0, |part| part.len());
                    self.tell(file, done.min(total), total)?;
                    std::thread::sleep(LOCK_LOOK);
                }
            }
        }
    }

    /// Removes a file that came wrong, with its blob.
    fn drop_file(&self, pinned: &Pinned, file: &str) {
        pinned.local.forget(file);
        let path = pinned.local.path().join(file);
        if let Ok(blob) = path.canonicalize() {
            let _ = std::fs::remove_file(blob);
        }
        let _ = std::fs::remove_file(path);
    }

    /// Writes `refs/<revision>`, by which the revision is found offline, by Python too.
    ///
    /// Only once there is a snapshot of the commit: a ref to nothing would hide an older snapshot.
    /// A cache that cannot be written to (shared, read-only) is as good without.
    pub(super) fn note_ref(&self, commit: &str) {
        let path = self.folder().join("refs").join(&self.revision);
        let noted = std::fs::read_to_string(&path).is_ok_and(|noted| noted == commit);
        if self.api.is_none() || is_commit(&self.revision) || noted {
            return;
        }
        let repo = self.cache.repo(self.repo(&self.revision));
        if let Err(error) = repo.create_ref(commit) {
            tracing::debug!(%error, path = %path.display(), "cannot note the commit");
        }
    }

    fn disk(&self, file: &str, source: io::Error) -> SourceError {
        SourceError::Io {
            at: self.describe(),
            file: file.to_owned(),
            source,
        }
    }
}

/// `blob.part` beside `blob`, whatever dots an ETag has.
fn beside(blob: &Path, end: &str) -> PathBuf {
    let mut name = blob.as_os_str().to_owned();
    name.push(".");
    name.push(end);
    PathBuf::from(name)
}

/// Makes `file` of a snapshot a link to `blob`; where links are not to be had, the blob itself.
fn link(snapshot: &Path, file: &str, blob: &Path) -> io::Result<()> {
    let link = snapshot.join(file);
    if link.exists() {
        return Ok(());
    }
    if let Some(folder) = link.parent() {
        std::fs::create_dir_all(folder)?;
    }
    // One to a blob that somebody removed.
    let _ = std::fs::remove_file(&link);
    // Out of the snapshot, out of `snapshots`, and out of the folders of the file's own name.
    let mut target = PathBuf::from("../..");
    target.extend(file.matches('/').map(|_| ".."));
    target.push("blobs");
    target.extend(blob.file_name());
    match symlink(&target, &link) {
        // Another process was faster.
        Err(_) if link.exists() => Ok(()),
        Err(_) => std::fs::rename(blob, &link),
        Ok(()) => Ok(()),
    }
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}
