//! The journal of a save: its source and configuration, and then a line for every weight that is in a file.
//!
//! ```text
//! {"journal":1,"model":…,"identity":{…},"becomes":[…]}      once
//! {"weight":"model.norm.weight","file":…,"tensors":[{…}]}   when its bytes are with the system
//! ```
//!
//! A line is written after the bytes that it describes, so the journal of a process that is killed lists no weight that is
//! missing. After a loss of power the line may be on the disk and the bytes may not; their checksum shows that.
//! The first line that is torn or wrong, or whose bytes are missing, ends the journal.
//!
//! The journal is locked while a save runs, and removed when the checkpoint is complete.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, ErrorKind, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{SaveError, identity::Identity, shard::Written};

/// Its name in the folder.
pub(crate) const JOURNAL: &str = ".firebox-journal.jsonl";

/// The version that this program writes.
const VERSION: u64 = 1;

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    journal: u64,
    /// For people who read the file.
    model: String,
    identity: Value,
    /// The action of each weight, including choices made by measuring.
    becomes: Vec<String>,
}

/// A weight that is in a file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Done {
    pub(super) weight: String,
    pub(super) file: String,
    pub(super) tensors: Vec<Written>,
}

/// A journal that this process alone writes.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    path: PathBuf,
    head: Option<Head>,
    done: Vec<Done>,
    /// Where each line ends, the first line's end first.
    ends: Vec<u64>,
}

/// How to act while another process writes the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Busy {
    Refuse,
    Wait,
}

impl Journal {
    /// The journal of `folder`, if there is one.
    pub(crate) fn find(folder: &Path, busy: Busy) -> Result<Option<Self>, SaveError> {
        let path = folder.join(JOURNAL);
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file.map_err(failed(&path))?,
        };
        lock(&file, &path, busy)?;
        let mut journal = Self::empty(file, path);
        // The last owner of the lock may just have removed the file.
        if !journal.path.exists() {
            return Ok(None);
        }
        journal.read()?;
        Ok(Some(journal))
    }

    /// Whether the journal of `folder` belongs to `identity`.
    pub(super) fn is_of(folder: &Path, identity: &Identity) -> bool {
        let path = folder.join(JOURNAL);
        let Ok(file) = File::open(&path) else {
            return false;
        };
        let mut journal = Self::empty(file, path);
        journal.read().is_ok() && matches!(journal.check(identity), Ok(true))
    }

    /// A new journal, in a folder that has none.
    pub(crate) fn create(folder: &Path) -> Result<Self, SaveError> {
        let path = folder.join(JOURNAL);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).open(&path);
        let file = file.map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => SaveError::Busy {
                folder: folder.to_owned(),
            },
            _ => failed(&path)(error),
        })?;
        lock(&file, &path, Busy::Refuse)?;
        Ok(Self::empty(file, path))
    }

    fn empty(file: File, path: PathBuf) -> Self {
        Self {
            file,
            path,
            head: None,
            done: Vec::new(),
            ends: Vec::new(),
        }
    }

    fn read(&mut self) -> Result<(), SaveError> {
        let mut text = Vec::new();
        let read = self.file.read_to_end(&mut text);
        read.map_err(failed(&self.path))?;
        let mut lines = text.split_inclusive(|byte| *byte == b'\n');
        let whole = |line: &&[u8]| line.ends_with(b"\n");
        // Torn in its first line: nothing was done yet.
        let Some(first) = lines.next().filter(whole) else {
            return Ok(());
        };
        let wrong = |reason: String| SaveError::Journal {
            path: self.path.clone(),
            reason,
        };
        let head: Value = serde_json::from_slice(first)
            .map_err(|error| wrong(format!("its first line is not JSON: {error}")))?;
        match head["journal"].as_u64() {
            Some(VERSION) => {}
            Some(found) => {
                return Err(wrong(format!(
                    "it is of version {found}, and this program writes version {VERSION}"
                )));
            }
            None => return Err(wrong("its first line says no version".to_owned())),
        }
        let head = serde_json::from_value(head).map_err(|error| wrong(error.to_string()))?;
        self.head = Some(head);
        self.ends.push(first.len() as u64);
        for line in lines.take_while(whole) {
            let Ok(done) = serde_json::from_slice(line) else {
                break;
            };
            self.done.push(done);
            let end = self.ends[self.ends.len() - 1] + line.len() as u64;
            self.ends.push(end);
        }
        Ok(())
    }

    /// Refuses a source or configuration that differs from the journal's, and names the first difference. Returns whether
    /// the journal has a first line.
    pub(crate) fn check(&self, now: &Identity) -> Result<bool, SaveError> {
        let Some(head) = &self.head else {
            return Ok(false);
        };
        match now.difference(&head.identity) {
            None => Ok(true),
            Some(difference) => Err(SaveError::Changed {
                folder: self.folder(),
                difference: Box::new(difference),
            }),
        }
    }

    /// The action of each weight.
    pub(crate) fn becomes(&self) -> &[String] {
        self.head.as_ref().map_or(&[], |head| &head.becomes)
    }

    /// Writes the first line, and forgets all others.
    pub(crate) fn begin(
        &mut self,
        model: &str,
        identity: &Identity,
        becomes: Vec<String>,
    ) -> Result<(), SaveError> {
        let head = Head {
            journal: VERSION,
            model: model.to_owned(),
            identity: identity.value().clone(),
            becomes,
        };
        self.done.clear();
        self.ends.clear();
        self.append(&head)?;
        self.head = Some(head);
        self.sync()
    }

    /// Weights that are in files.
    pub(super) fn done(&self) -> &[Done] {
        &self.done
    }

    /// Forgets all but the first weights.
    pub(super) fn keep(&mut self, weights: usize) -> Result<(), SaveError> {
        self.done.truncate(weights);
        self.ends.truncate(weights + 1);
        let end = self.ends[self.ends.len() - 1];
        self.file.set_len(end).map_err(failed(&self.path))
    }

    /// Writes the line of a weight whose bytes the system has.
    pub(super) fn tell(&mut self, done: Done) -> Result<(), SaveError> {
        self.append(&done)?;
        self.done.push(done);
        Ok(())
    }

    /// A line counts when it is written whole; a torn line is overwritten.
    fn append(&mut self, line: &impl Serialize) -> Result<(), SaveError> {
        let mut line = serde_json::to_vec(line).expect("lines have no other keys than texts");
        line.push(b'\n');
        let end = self.ends.last().copied().unwrap_or(0);
        let written = (|| {
            self.file.set_len(end)?;
            self.file.seek(SeekFrom::Start(end))?;
            self.file.write_all(&line)
        })();
        written.map_err(SaveError::at(&self.path, line.len() as u64))?;
        self.ends.push(end + line.len() as u64);
        Ok(())
    }

    /// Waits until every line is on the disk.
    pub(super) fn sync(&self) -> Result<(), SaveError> {
        self.file.sync_data().map_err(failed(&self.path))
    }

    /// Removes the journal of a complete checkpoint.
    pub(super) fn remove(self) -> Result<(), SaveError> {
        fs::remove_file(&self.path).map_err(failed(&self.path))
    }

    fn folder(&self) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).to_owned()
    }
}

/// Closing the file is not enough: a process that is being started by another thread may have it open still.
impl Drop for Journal {
    fn drop(&mut self) {
        if let Err(error) = self.file.unlock() {
            tracing::debug!(path = %self.path.display(), %error, "could not be unlocked");
        }
    }
}

/// Held until the journal is dropped, or the process ends.
fn lock(file: &File, path: &Path, busy: Busy) -> Result<(), SaveError> {
    let locked = match busy {
        Busy::Wait => file.lock(),
        Busy::Refuse => match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                let folder = path.parent().unwrap_or(path).to_owned();
                return Err(SaveError::Busy { folder });
            }
            Err(TryLockError::Error(error)) => Err(error),
            Ok(()) => Ok(()),
        },
    };
    match locked {
        // Some network folders have no locks.
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            tracing::warn!(path = %path.display(), "cannot be locked; let no other process write this folder");
            Ok(())
        }
        locked => locked.map_err(failed(path)),
    }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> SaveError + use<> {
    SaveError::at(path, 0)
}
