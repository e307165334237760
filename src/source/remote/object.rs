//! Whole objects: written, on a condition where need be, read, looked at, renamed.

use std::time::Duration;

use futures_util::TryStreamExt;
use object_store::{Error, ObjectStoreExt, PutMode, PutPayload, UpdateVersion, path::Path};

use super::{
    address::StoreKind,
    explain::{passes, status},
    runtime::block_on,
    store::{RemoteOptions, RemoteStore},
};
use crate::source::{SourceError, backoff::Backoff};

/// Tries after the first one of a write on a condition, which `object_store` does not repeat by itself.
const RETRIES: usize = 6;
/// The first wait before another try.
const WAIT_FIRST: Duration = Duration::from_millis(100);

/// A state of an object that a write can depend on.
#[derive(Debug, Clone)]
pub(crate) struct ObjectState(UpdateVersion);

impl RemoteStore {
    /// The store of an address, to be written to. Sends nothing yet.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open), and for plain HTTP, which takes no files.
    pub(crate) fn to_write(address: &str) -> Result<Self, SourceError> {
        let options = RemoteOptions {
            retries: true,
            ..RemoteOptions::default()
        };
        let store = Self::open(address, &options)?;
        let refuse = |reason: &str| SourceError::Store {
            at: store.at.clone(),
            reason: reason.to_owned(),
        };
        if store.kind == StoreKind::Http {
            return Err(refuse(
                "files cannot be written over plain HTTP; write to s3://…, gs://… or az://…",
            ));
        }
        if store.file.is_some() {
            return Err(refuse("it names a file; name a folder to write to"));
        }
        Ok(store)
    }

    /// Whether it is S3, or speaks like it.
    pub(crate) fn is_s3(&self) -> bool {
        self.kind == StoreKind::S3
    }

    /// Carries out a request about `file`.
    pub(super) fn carry<T: Send>(
        &self,
        file: &str,
        request: impl Future<Output = object_store::Result<T>> + Send,
    ) -> Result<T, SourceError> {
        match block_on(request) {
            Ok(answer) => answer.map_err(|error| self.explain(file, error)),
            Err(error) => Err(self.network(file, error.to_string())),
        }
    }

    /// Writes an object, whatever is there.
    pub(crate) fn put(&self, file: &str, bytes: Vec<u8>) -> Result<(), SourceError> {
        let (path, bytes) = (self.path(file), PutPayload::from(bytes));
        self.carry(file, self.store.put(&path, bytes)).map(|_| ())
    }

    /// Writes an object, provided that it is in this state still, or that there is none. `None` where another program has
    /// written it.
    pub(crate) fn put_if(
        &self,
        file: &str,
        bytes: &[u8],
        was: Option<&ObjectState>,
    ) -> Result<Option<ObjectState>, SourceError> {
        let path = self.path(file);
        let mut mode = match was {
            None => PutMode::Create,
            Some(ObjectState(version)) => PutMode::Update(version.clone()),
        };
        let mut wait = Backoff::new(RETRIES, WAIT_FIRST);
        loop {
            let put = self
                .store
                .put_opts(&path, bytes.to_vec().into(), mode.clone().into());
            let put = block_on(put).map_err(|error| self.network(file, error.to_string()))?;
            match put {
                Ok(written) => return Ok(Some(ObjectState(written.into()))),
                // An earlier try may have got there, and its answer not back.
                Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {
                    let found = self.get(file)?;
                    let ours = found.filter(|(found, _)| found == bytes);
                    return Ok(ours.map(|(_, state)| state));
                }
                // Some stores that speak like S3 know no conditions.
                Err(error)
                    if mode != PutMode::Overwrite
                        && (matches!(error, Error::NotImplemented { .. })
                            || status(&error) == Some(501)) =>
                {
                    mode = PutMode::Overwrite;
                }
                Err(error) if passes(&error) && wait.again() => {}
                Err(error) => return Err(self.explain(file, error)),
            }
        }
    }

    /// A whole small object and its state; `None` where there is none.
    pub(crate) fn get(&self, file: &str) -> Result<Option<(Vec<u8>, ObjectState)>, SourceError> {
        let path = self.path(file);
        let found = self.carry(file, async {
            let answer = self.store.get(&path).await?;
            let state = ObjectState(UpdateVersion {
                e_tag: answer.meta.e_tag.clone(),
                version: answer.meta.version.clone(),
            });
            Ok((answer.bytes().await?.to_vec(), state))
        });
        absent(found)
    }

    /// Hands an object to `take`, piece after piece.
    pub(crate) fn stream(
        &self,
        file: &str,
        take: &mut (dyn FnMut(&[u8]) + Send),
    ) -> Result<(), SourceError> {
        let path = self.path(file);
        self.carry(file, async {
            let mut pieces = self.store.get(&path).await?.into_stream();
            while let Some(piece) = pieces.try_next().await? {
                take(&piece);
            }
            Ok(())
        })
    }

    /// The first bytes of an object.
    pub(crate) fn beginning(&self, file: &str, bytes: u64) -> Result<Vec<u8>, SourceError> {
        let path = self.path(file);
        let bytes = self.carry(file, self.store.get_range(&path, 0..bytes))?;
        Ok(bytes.to_vec())
    }

    /// The length of an object; `None` where there is none.
    pub(crate) fn length(&self, file: &str) -> Result<Option<u64>, SourceError> {
        let path = self.path(file);
        let found = self.carry(file, self.store.head(&path));
        Ok(absent(found)?.map(|meta| meta.size))
    }

    /// Whether the folder has no object.
    pub(crate) fn is_empty(&self) -> Result<bool, SourceError> {
        let folder = Some(&self.folder).filter(|folder| *folder != &Path::default());
        let first = self.carry("", async { self.store.list(folder).try_next().await })?;
        Ok(first.is_none())
    }

    /// Gives an object another name, within the store: its bytes do not travel. `false` where there is none.
    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<bool, SourceError> {
        let [old, new] = [from, to].map(|file| self.path(file));
        let copied = absent(self.carry(to, self.store.copy(&old, &new)))?;
        if copied.is_some() {
            self.delete(from)?;
        }
        Ok(copied.is_some())
    }

    /// Removes an object, which need not be there.
    pub(crate) fn delete(&self, file: &str) -> Result<(), SourceError> {
        let path = self.path(file);
        absent(self.carry(file, self.store.delete(&path))).map(|_| ())
    }
}

/// What is not there is nothing, and no error.
fn absent<T>(found: Result<T, SourceError>) -> Result<Option<T>, SourceError> {
    match found {
        Err(SourceError::NotFound { .. }) => Ok(None),
        found => found.map(Some),
    }
}
