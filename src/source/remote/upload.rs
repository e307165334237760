//! An object that is uploaded in parts, several at once.

use bytes::Bytes;
use object_store::{PutPayload, multipart::PartId, path::Path};
use std::time::Duration;
use tokio::task::{JoinError, JoinSet};

use super::{
    runtime::block_on,
    store::{InParts, RemoteStore},
};
use crate::source::SourceError;

/// Bytes of a part. Stores want 5 MiB at least of each but the last, and some that all but the last are equal.
pub(crate) const PART: u64 = 8 << 20;
/// Parts that are sent at once.
pub(crate) const SENDING: usize = 4;
/// Parts of an object at most: stores take 10,000.
const PARTS_MAX: u64 = 9_500;
/// How long parts that are under way are waited for before an upload is given up.
const LAST_WAIT: Duration = Duration::from_secs(10);

/// Bytes of each part of an object of `total` bytes, about.
pub(crate) fn part_bytes(total: u64) -> u64 {
    total
        .div_ceil(PARTS_MAX)
        .next_multiple_of(1 << 20)
        .max(PART)
}

/// An upload in parts. The object is there when it is [complete](Self::complete); an upload that is dropped before leaves nothing
/// behind.
#[derive(Debug)]
pub(crate) struct Upload {
    store: RemoteStore,
    multipart: InParts,
    file: String,
    path: Path,
    id: String,
    parts: Vec<Option<PartId>>,
    sending: JoinSet<SentPart>,
    open: bool,
}

/// The place of a part, and what became of it.
type SentPart = (usize, object_store::Result<PartId>);

impl RemoteStore {
    /// Begins an upload.
    pub(crate) fn upload(&self, file: &str) -> Result<Upload, SourceError> {
        let (multipart, path) = (self.in_parts(file)?, self.path(file));
        let id = self.carry(file, multipart.0.create_multipart(&path))?;
        Ok(Upload {
            store: self.clone(),
            multipart,
            file: file.to_owned(),
            path,
            id,
            parts: Vec::new(),
            sending: JoinSet::new(),
            open: true,
        })
    }

    /// Gives up an upload of another process, which the store may not know any more.
    pub(crate) fn abort(&self, file: &str, id: &str) -> Result<(), SourceError> {
        let (multipart, path) = (self.in_parts(file)?, self.path(file));
        match self.carry(file, multipart.0.abort_multipart(&path, &id.to_owned())) {
            Err(SourceError::NotFound { .. }) => Ok(()),
            aborted => aborted,
        }
    }

    fn in_parts(&self, file: &str) -> Result<InParts, SourceError> {
        let parts = self.parts.clone();
        parts.ok_or_else(|| self.network(file, "it takes no files".to_owned()))
    }
}

impl Upload {
    /// What the store calls it.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Sends a part. Waits while [`SENDING`] others are under way.
    pub(crate) fn put(&mut self, nth: usize, bytes: Vec<u8>) -> Result<(), SourceError> {
        let (multipart, path, id) = (self.multipart.clone(), self.path.clone(), self.id.clone());
        let bytes = PutPayload::from(Bytes::from(bytes));
        let (sending, parts) = (&mut self.sending, &mut self.parts);
        let sent = block_on(async move {
            while sending.len() >= SENDING {
                note(sending.join_next().await, parts)?;
            }
            sending.spawn(async move {
                let sent = multipart.0.put_part(&path, &id, nth, bytes).await;
                (nth, sent)
            });
            Ok(())
        });
        self.known(sent)
    }

    /// Waits for all parts, the first `count`, and makes the object of `len` bytes of them.
    pub(crate) fn complete(mut self, count: usize, len: u64) -> Result<(), SourceError> {
        let (sending, parts) = (&mut self.sending, &mut self.parts);
        let sent = block_on(async move {
            while !sending.is_empty() {
                note(sending.join_next().await, parts)?;
            }
            Ok(())
        });
        self.known(sent)?;
        let parts: Option<Vec<PartId>> = self.parts.drain(..).collect();
        let Some(parts) = parts.filter(|parts| parts.len() == count) else {
            return Err(self
                .store
                .network(&self.file, "a part was not sent".to_owned()));
        };
        let completed = self
            .multipart
            .0
            .complete_multipart(&self.path, &self.id, parts);
        let completed = self.store.carry(&self.file, completed);
        // An earlier try may have got there, and its answer not back.
        if completed.is_err() && self.store.length(&self.file)? != Some(len) {
            return completed.map(|_| ());
        }
        self.open = false;
        Ok(())
    }

    fn known(&self, sent: std::io::Result<Result<(), PartError>>) -> Result<(), SourceError> {
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(PartError::Store(error))) => Err(self.store.explain(&self.file, error)),
            Ok(Err(PartError::Task(error))) => {
                Err(self.store.network(&self.file, error.to_string()))
            }
            Err(error) => Err(self.store.network(&self.file, error.to_string())),
        }
    }
}

/// Why a part was not sent.
enum PartError {
    Store(object_store::Error),
    Task(JoinError),
}

/// Notes what became of a part.
fn note(
    sent: Option<Result<SentPart, JoinError>>,
    parts: &mut Vec<Option<PartId>>,
) -> Result<(), PartError> {
    let Some(sent) = sent else { return Ok(()) };
    let (nth, part) = sent.map_err(PartError::Task)?;
    if parts.len() <= nth {
        parts.resize(nth + 1, None);
    }
    parts[nth] = Some(part.map_err(PartError::Store)?);
    Ok(())
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.open {
            return;
        }
        // A part that arrives after the end of its upload may stay.
        let sending = &mut self.sending;
        let waited = block_on(async move {
            let all = async { while sending.join_next().await.is_some() {} };
            tokio::time::timeout(LAST_WAIT, all).await.is_ok()
        });
        if !matches!(waited, Ok(true)) {
            tracing::debug!(
                file = self.file,
                "parts are under way at the end of their upload"
            );
        }
        if let Err(error) = self.store.abort(&self.file, &self.id) {
            tracing::warn!(%error, upload = self.id, "an upload could not be given up; the store may keep its parts");
        }
    }
}
