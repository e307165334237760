//! The seam between a checkpoint that is written and the place that takes it.
//!
//! | | a folder of this machine | a folder of an object store |
//! |---|---|---|
//! | a file of weights | grows under another name, is renamed | is uploaded in parts under another name, is copied at the end |
//! | the journal | a line for each weight, at once | the same lines, when a file of weights is complete |
//! | a resumed save goes on | after the last weight | after the last complete file of weights |
//! | two saves at once | a lock | the journal is written on condition that nobody else has |

use core::{fmt::Debug, ops::Range};
use std::{io, path::PathBuf};

use super::{
    SaveError,
    written::{ShardPlace, Written},
};

/// A place that takes the files of one checkpoint. Names are those in the checkpoint.
pub(crate) trait Output: Debug {
    /// The place of a file, for messages.
    fn path(&self, file: &str) -> PathBuf;

    /// The place of a file of weights that is under way, for messages.
    fn partial(&self, file: &str) -> PathBuf;

    /// Bytes of host memory that writing takes, for files of weights of `shard` bytes at most, of which `late` come last. Refuses files
    /// that are too large.
    fn admit(&self, shard: u64, late: u64) -> Result<u64, SaveError>;

    /// Whether nothing is there.
    fn is_empty(&self) -> io::Result<bool>;

    /// The length of a file; `None` where it is not there.
    fn len(&self, file: &str) -> io::Result<Option<u64>>;

    /// A whole small file; `None` where it is not there.
    fn read(&self, file: &str) -> io::Result<Option<Vec<u8>>>;

    /// Writes a small file: all of it is there for good, or nothing of it.
    fn write(&self, file: &str, bytes: &[u8]) -> io::Result<()>;

    /// Removes a file, which need not be there.
    fn remove(&self, file: &str) -> io::Result<()>;

    /// The journal of an earlier save, if there is one. Nobody else writes it from now on.
    fn journal(&self, busy: Busy) -> Result<Option<Box<dyn JournalFile>>, SaveError>;

    /// A new journal, where there is none.
    fn new_journal(&self) -> Result<Box<dyn JournalFile>, SaveError>;

    /// Begins a file of weights.
    fn begin(&self, place: &ShardPlace) -> io::Result<Box<dyn ShardBytes>>;

    /// Goes on with a file of weights after the last of `steps` whose tensors are intact, with those of all steps before it.
    /// Returns the number of these steps, and the file where any of it is there.
    fn reopen(&self, place: &ShardPlace, steps: &[Vec<Written>]) -> io::Result<Reopened>;

    /// Whether a file of weights is complete, with these tensors and the header that goes with them.
    fn is_finished(&self, place: &ShardPlace, written: &[Written]) -> io::Result<bool>;

    /// Whether the weights of a file that is under way survive the end of the process.
    fn keeps_unfinished(&self) -> bool;

    /// Gives files of weights, all of which are complete, their names.
    fn publish(&self, files: &[String]) -> io::Result<()>;
}

/// How far a file of weights is, and its bytes where it is under way.
pub(crate) type Reopened = (usize, Option<Box<dyn ShardBytes>>);

/// How to act while another process writes the same place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Busy {
    Refuse,
    Wait,
}

/// The bytes of a file of weights under way: the data, and the late tensors that follow it in the end.
pub(crate) trait ShardBytes: Send {
    /// Appends to the data, or to the late tensors.
    fn append(&mut self, late: bool, bytes: &[u8]) -> io::Result<()>;

    /// Hands all bytes on, so that they survive the end of the process where anything does.
    fn flush(&mut self) -> io::Result<()>;

    /// Writes the late tensors, which lie in these ranges, behind the data, and the head before it: the file is complete.
    fn finish(self: Box<Self>, head: &[u8], late: &[Range<u64>]) -> io::Result<()>;
}

/// The bytes of a journal.
pub(crate) trait JournalFile: Debug + Send + Sync {
    /// All of them.
    fn read(&mut self) -> io::Result<Vec<u8>>;

    /// Writes a line at a place, and forgets what is behind it.
    fn write_at(&mut self, at: u64, line: &[u8]) -> io::Result<()>;

    /// Forgets what is behind a place.
    fn cut(&mut self, at: u64) -> io::Result<()>;

    /// Waits until every line is where it survives.
    fn sync(&mut self) -> io::Result<()>;

    /// Removes the journal.
    fn remove(self: Box<Self>) -> io::Result<()>;
}
