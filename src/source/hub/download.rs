//! Files into the cache.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hf_hub::api::sync::{Api, ApiError};

use super::{Backoff, Hub, Pinned, is_commit, lock};
use crate::source::{Source, SourceError, stays_inside};

/// How often a download is tried again while another process holds the file's lock. Each try waits
/// five seconds for it.
const LOCK_TRIES_MAX: usize = 120;

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

        let mut wait = Backoff::new(self.retries);
        let mut lock_tries = 0;
        loop {
            // Another thread, or another process whose lock this one waited for, may have been
            // faster.
            match pinned.local.size(file) {
                Err(error) if error.is_absent() => {}
                found => return found.map(|_| ()),
            }
            let error = match self.try_download(api, &pinned.commit, file) {
                Ok(()) => break,
                Err(error) => error,
            };
            match status_of(&error) {
                Some(status @ (401 | 403)) => return Err(self.unauthorized(file, status)),
                Some(404) => return Err(self.not_found(file)),
                _ => {}
            }
            if let ApiError::LockAcquisition(_) = error
                && lock_tries < LOCK_TRIES_MAX
            {
                lock_tries += 1;
                continue;
            }
            if let Some(source) = disk_trouble(&error) {
                return Err(SourceError::Io {
                    at: self.describe(),
                    file: file.to_owned(),
                    source: io::Error::new(source, error.to_string()),
                });
            }
            // What is left of an interrupted download is longer than the file, or as long and was
            // never renamed: the hub answers 416 to what would complete it.
            if matches!(error, ApiError::InvalidResume) || status_of(&error) == Some(416) {
                self.drop_part(api, &pinned.commit, file);
            }
            if !wait.again() {
                return Err(self.network(file, error));
            }
        }

        let len = pinned.local.size(file)?;
        if let Some(size) = size
            && len != size
        {
            self.drop_file(pinned, file);
            return Err(SourceError::Truncated {
                at: self.describe(),
                file: file.to_owned(),
                wanted_end: size,
                len,
            });
        }
        self.note_ref(&pinned.commit);
        Ok(())
    }

    fn try_download(&self, api: &Api, commit: &str, file: &str) -> Result<(), ApiError> {
        let repo = api.repo(self.repo(commit));
        if self.reuse_blob(api, &repo.url(file), commit, file) {
            return Ok(());
        }
        tracing::debug!(id = %self.id, %commit, %file, "downloading");
        repo.download_with_progress(file, ()).map(|_| ())
    }

    /// Links a blob that an earlier commit brought. `false` when there is none, or links are not
    /// to be had here: then a download is what remains.
    fn reuse_blob(&self, api: &Api, url: &str, commit: &str, file: &str) -> bool {
        let folder = self.folder();
        if !folder.join("blobs").is_dir() {
            return false;
        }
        let Ok(meta) = api.metadata(url) else {
            return false;
        };
        let blob = folder.join("blobs").join(meta.etag());
        if !stays_inside(meta.etag())
            || blob.metadata().map_or(0, |blob| blob.len()) != meta.size() as u64
        {
            return false;
        }
        let link = folder.join("snapshots").join(commit).join(file);
        // Out of the snapshot, out of `snapshots`, and out of the folders of the file's own name.
        let mut target = PathBuf::from("../..");
        target.extend(file.matches('/').map(|_| ".."));
        target.extend(["blobs", meta.etag()]);
        link.parent()
            .is_some_and(|parent| std::fs::create_dir_all(parent).is_ok())
            && symlink(&target, &link).is_ok()
    }

    /// Removes what an interrupted download left, so that the next begins anew.
    fn drop_part(&self, api: &Api, commit: &str, file: &str) {
        let repo = self.repo(commit);
        let url = api.repo(repo.clone()).url(file);
        if let Ok(meta) = api.metadata(&url)
            && stays_inside(meta.etag())
        {
            let mut part = self.cache.repo(repo).blob_path(meta.etag());
            part.set_extension("part");
            // If it cannot be removed, the next try fails as this one did, and says so.
            let _ = std::fs::remove_file(part);
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
}

/// The HTTP status of a failed request.
///
/// `hf-hub` keeps it in a type of a crate that it does not export, so it is read from the message.
/// Were that ever worded differently, the error would be [`SourceError::Network`] with its cause
/// (and the tests of each status would fail).
fn status_of(error: &ApiError) -> Option<u16> {
    let text = error.to_string();
    let (_, status) = text.split_once("http status: ")?;
    status.get(..3)?.parse().ok()
}

/// Trouble with the disk, which trying again does not cure.
fn disk_trouble(error: &ApiError) -> Option<io::ErrorKind> {
    use io::ErrorKind as Kind;
    match error {
        ApiError::IoError(error) => match error.kind() {
            kind @ (Kind::StorageFull
            | Kind::QuotaExceeded
            | Kind::PermissionDenied
            | Kind::ReadOnlyFilesystem
            | Kind::NotADirectory
            | Kind::AlreadyExists) => Some(kind),
            _ => None,
        },
        _ => None,
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
