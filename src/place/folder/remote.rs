//! A folder of an object store.
//!
//! ```text
//! .firebox-unpublished-NAME   a complete file of weights, until all of them are
//! .firebox-upload.json        the upload that is under way, to be given up after the end of its process
//! .firebox-journal.jsonl      the journal, written whole when a file of weights is complete
//! ```
//!
//! A file of weights is uploaded in parts while it is made. Its first part has the header, which is known last, so that part is sent
//! last. Nothing has a name of the checkpoint before all weights are there; then the files of weights get theirs, within the store,
//! and the small files follow, `config.json` last.

use core::ops::Range;
use std::{io, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{
    SaveError,
    journal::JOURNAL,
    output::{Busy, JournalFile, Output, Reopened, ShardBytes},
    written::{ShardPlace, Written},
};
use crate::source::{
    SourceError,
    remote::{ObjectState, PART, RemoteStore, SENDING, Upload, part_bytes},
};

/// The note of an upload under way.
const UPLOAD: &str = ".firebox-upload.json";
/// Bytes of an object that S3 copies within itself, at most.
const COPIED_MAX: u64 = 5 << 30;

/// A folder of an object store.
#[derive(Debug)]
pub(super) struct RemoteOutput {
    store: RemoteStore,
}

/// An upload under way.
#[derive(Serialize, Deserialize)]
struct UploadNote {
    file: String,
    upload: String,
}

impl RemoteOutput {
    pub(super) fn new(address: &str) -> Result<Self, SaveError> {
        Ok(Self {
            store: RemoteStore::to_write(address)?,
        })
    }

    /// Gives up the upload that an earlier process has left.
    fn clear(&self) -> Result<(), SourceError> {
        let Some((note, _)) = self.store.get(UPLOAD)? else {
            return Ok(());
        };
        // A note that cannot be read says nothing.
        if let Ok(UploadNote { file, upload }) = serde_json::from_slice(&note) {
            self.store.abort(&file, &upload)?;
        }
        self.store.delete(UPLOAD)
    }
}

impl Output for RemoteOutput {
    fn path(&self, file: &str) -> PathBuf {
        format!("{}/{file}", self.store.at).into()
    }

    fn partial(&self, file: &str) -> PathBuf {
        self.path(file)
    }

    fn admit(&self, shard: u64, late: u64) -> Result<u64, SaveError> {
        if self.store.is_s3() && shard > COPIED_MAX {
            return Err(SaveError::ShardTooLarge {
                folder: self.store.at.clone().into(),
                bytes: shard,
                max: COPIED_MAX,
            });
        }
        // The first part, which waits for the header, the one that is filled, and those that are sent.
        let parts = shard.div_ceil(PART).min(SENDING as u64 + 2);
        Ok(parts * part_bytes(shard).min(shard) + late)
    }

    fn is_empty(&self) -> io::Result<bool> {
        self.store.is_empty().map_err(io::Error::other)
    }

    fn len(&self, file: &str) -> io::Result<Option<u64>> {
        self.store.length(file).map_err(io::Error::other)
    }

    fn read(&self, file: &str) -> io::Result<Option<Vec<u8>>> {
        let found = self.store.get(file).map_err(io::Error::other)?;
        Ok(found.map(|(bytes, _)| bytes))
    }

    fn write(&self, file: &str, bytes: &[u8]) -> io::Result<()> {
        self.store
            .put(file, bytes.to_vec())
            .map_err(io::Error::other)
    }

    fn remove(&self, file: &str) -> io::Result<()> {
        self.store.delete(file).map_err(io::Error::other)
    }

    fn journal(&self, _: Busy) -> Result<Option<Box<dyn JournalFile>>, SaveError> {
        let found = self.store.get(JOURNAL)?;
        Ok(found.map(|(text, state)| {
            Box::new(RemoteJournal {
                store: self.store.clone(),
                text,
                changed: false,
                state,
            }) as Box<dyn JournalFile>
        }))
    }

    fn new_journal(&self) -> Result<Box<dyn JournalFile>, SaveError> {
        // A line without an end is none; it tells this process from another one that begins at the same time.
        let text = format!("{{\"begun\":\"{:032x}\"", unique()).into_bytes();
        match self.store.put_if(JOURNAL, &text, None)? {
            Some(state) => Ok(Box::new(RemoteJournal {
                store: self.store.clone(),
                text,
                changed: false,
                state,
            })),
            None => Err(SaveError::Busy {
                folder: self.store.at.clone().into(),
            }),
        }
    }

    fn begin(&self, place: &ShardPlace) -> io::Result<Box<dyn ShardBytes>> {
        let begin = || {
            self.clear()?;
            let file = unpublished(&place.name);
            let upload = self.store.upload(&file)?;
            let note = UploadNote {
                file,
                upload: upload.id().to_owned(),
            };
            let note = serde_json::to_vec(&note).expect("two texts are JSON");
            self.store.put(UPLOAD, note)?;
            Ok(upload)
        };
        let upload = begin().map_err(|error: SourceError| io::Error::other(error))?;
        let base = place.base() as usize;
        let part = part_bytes(place.bytes) as usize;
        Ok(Box::new(RemoteShard {
            store: self.store.clone(),
            upload: Some(upload),
            part,
            first: vec![0; base],
            with_head: base.div_ceil(part),
            filled: Vec::new(),
            sent: 0,
            late: Vec::new(),
        }))
    }

    /// What was under way is gone with its process.
    fn reopen(&self, _: &ShardPlace, _: &[Vec<Written>]) -> io::Result<Reopened> {
        Ok((0, None))
    }

    /// Bytes that arrived are those that were sent: stores compare them with the signature of each request.
    fn is_finished(&self, place: &ShardPlace, written: &[Written]) -> io::Result<bool> {
        let head = place.head(written);
        let bytes = place.data_len(written);
        let is_there = |file: &str| -> Result<bool, SourceError> {
            if self.store.length(file)? != Some(place.base() + bytes) {
                return Ok(false);
            }
            Ok(self.store.beginning(file, head.len() as u64)? == head)
        };
        let there = is_there(&unpublished(&place.name)).and_then(|there| match there {
            true => Ok(true),
            false => is_there(&place.name),
        });
        there.map_err(io::Error::other)
    }

    fn keeps_unfinished(&self) -> bool {
        false
    }

    fn publish(&self, files: &[String]) -> io::Result<()> {
        for file in files {
            let renamed = self.store.rename(&unpublished(file), file);
            let there = renamed.and_then(|renamed| match renamed {
                true => Ok(true),
                // An earlier process may have got that far.
                false => Ok(self.store.length(file)?.is_some()),
            });
            if !there.map_err(io::Error::other)? {
                let reason = format!("{file} is gone, which was uploaded before");
                return Err(io::Error::new(io::ErrorKind::NotFound, reason));
            }
        }
        Ok(())
    }
}

/// The name of a complete file of weights before all of them are. It does not end as such files do.
fn unpublished(file: &str) -> String {
    let stem = file.strip_suffix(".safetensors").unwrap_or(file);
    format!(".firebox-unpublished-{stem}")
}

/// A number that no other process has. The hasher of the standard library has new keys each time.
fn unique() -> u128 {
    use std::hash::{BuildHasher, RandomState};
    let half = |salt: u32| u128::from(RandomState::new().hash_one((std::process::id(), salt)));
    half(0) << 64 | half(1)
}

/// A file of weights under way.
struct RemoteShard {
    store: RemoteStore,
    /// `None` when it is complete.
    upload: Option<Upload>,
    /// Bytes of a part.
    part: usize,
    /// The parts that have some of the header: room for it, and the data behind it.
    first: Vec<u8>,
    with_head: usize,
    /// The part that is being filled.
    filled: Vec<u8>,
    /// Parts that were sent, behind those with the header.
    sent: usize,
    /// Tensors that come last, whose places are known when all of them are there.
    late: Vec<u8>,
}

impl RemoteShard {
    fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        let room = self.with_head * self.part - self.first.len();
        let (first, mut bytes) = bytes.split_at(room.min(bytes.len()));
        self.first.extend_from_slice(first);
        while !bytes.is_empty() {
            if self.filled.capacity() == 0 {
                self.filled.reserve_exact(self.part);
            }
            let room = self.part - self.filled.len();
            let (now, rest) = bytes.split_at(room.min(bytes.len()));
            self.filled.extend_from_slice(now);
            bytes = rest;
            if self.filled.len() == self.part {
                self.send()?;
            }
        }
        Ok(())
    }

    fn send(&mut self) -> io::Result<()> {
        let (nth, part) = (
            self.with_head + self.sent,
            core::mem::take(&mut self.filled),
        );
        self.sent += 1;
        match &mut self.upload {
            Some(upload) => upload.put(nth, part).map_err(io::Error::other),
            None => Ok(()),
        }
    }
}

impl ShardBytes for RemoteShard {
    fn append(&mut self, late: bool, bytes: &[u8]) -> io::Result<()> {
        if late {
            self.late.extend_from_slice(bytes);
            return Ok(());
        }
        self.data(bytes)
    }

    /// What is under way does not survive.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn finish(mut self: Box<Self>, head: &[u8], late: &[Range<u64>]) -> io::Result<()> {
        let all_late = core::mem::take(&mut self.late);
        for range in late {
            self.data(&all_late[range.start as usize..range.end as usize])?;
        }
        let behind = self.sent * self.part + self.filled.len();
        if !self.filled.is_empty() {
            self.send()?;
        }
        let mut first = core::mem::take(&mut self.first);
        first[..head.len()].copy_from_slice(head);
        let len = (first.len() + behind) as u64;
        let parts = first.len().div_ceil(self.part);
        let Some(mut upload) = self.upload.take() else {
            return Ok(());
        };
        let completed = (|| {
            // The last of them first, so that their memory is given back one by one.
            for nth in (0..parts).rev() {
                let part = first.split_off(nth * self.part);
                upload.put(nth, part)?;
            }
            upload.complete(parts + self.sent, len)
        })();
        self.store.delete(UPLOAD).map_err(io::Error::other)?;
        completed.map_err(io::Error::other)
    }
}

/// The upload gives itself up.
impl Drop for RemoteShard {
    fn drop(&mut self) {
        if self.upload.take().is_some()
            && let Err(error) = self.store.delete(UPLOAD)
        {
            tracing::debug!(%error, "the note of an upload stays");
        }
    }
}

/// The journal: a text in memory, and an object that gets all of it.
#[derive(Debug)]
struct RemoteJournal {
    store: RemoteStore,
    text: Vec<u8>,
    changed: bool,
    state: ObjectState,
}

impl JournalFile for RemoteJournal {
    fn read(&mut self) -> io::Result<Vec<u8>> {
        Ok(self.text.clone())
    }

    fn write_at(&mut self, at: u64, line: &[u8]) -> io::Result<()> {
        self.cut(at)?;
        self.text.extend_from_slice(line);
        Ok(())
    }

    fn cut(&mut self, at: u64) -> io::Result<()> {
        self.text
            .truncate(usize::try_from(at).unwrap_or(usize::MAX));
        self.changed = true;
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        if !self.changed {
            return Ok(());
        }
        let written = self.store.put_if(JOURNAL, &self.text, Some(&self.state));
        let Some(state) = written.map_err(io::Error::other)? else {
            let reason = "another process is writing the same folder; wait until it ends";
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, reason));
        };
        (self.state, self.changed) = (state, false);
        Ok(())
    }

    fn remove(self: Box<Self>) -> io::Result<()> {
        self.store.delete(JOURNAL).map_err(io::Error::other)
    }
}
