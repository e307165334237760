//! The journal of a save: its source and configuration, and then a line for every weight that is in a file.
//!
//! ```text
//! {"journal":2,"model":…,"identity":{…},"becomes":[…],"sum":…}      once
//! {"weight":"model.norm.weight","file":…,"tensors":[{…}],"sum":…}   when its bytes are with the system
//! {"files":{"config.json":{…},…},"sum":…}                           when the checkpoint is complete
//! ```
//!
//! A line is written after the bytes that it describes, so the journal of a process that is killed lists no weight that is
//! missing. After a loss of power the line may be on the disk and the bytes may not; their checksum shows that.
//!
//! A line ends with a checksum of itself and of all lines before it. The first line that is torn or changed, or whose
//! bytes are missing, ends the journal; a first line that is changed makes the journal useless.
//!
//! The journal is locked while a save runs. A complete checkpoint keeps its journal in the cache of packed weights alone,
//! where each load compares the files with it.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{
    SaveError,
    file_sum::FileSum,
    identity::Identity,
    output::{Busy, JournalFile, Output},
    written::Written,
};

/// Its name in the folder.
pub(crate) const JOURNAL: &str = ".firebox-journal.jsonl";

/// The version that this program writes.
const VERSION: u64 = 2;

/// The first line, written.
#[derive(Serialize)]
struct Head<'a> {
    journal: u64,
    /// For people who read the file.
    model: &'a str,
    identity: &'a Value,
    /// The action of each weight, including choices made by measuring.
    becomes: &'a [String],
}

/// The first line, read; what a save does not ask for is left out.
#[derive(Debug, Deserialize)]
struct JournalHead {
    /// Absent where this process has written it: it has a text for each tensor.
    identity: Option<Value>,
    /// The short form of an [`Identity`].
    #[serde(skip)]
    short: Value,
    becomes: Vec<String>,
}

/// A weight that is in a file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Done {
    pub(super) weight: String,
    pub(super) file: String,
    pub(super) tensors: Vec<Written>,
}

/// The last line: every file of a complete checkpoint.
#[derive(Debug, Serialize, Deserialize)]
struct JournalEnd {
    files: BTreeMap<String, FileSum>,
}

/// A journal that this process alone writes.
#[derive(Debug)]
pub(crate) struct Journal {
    file: Box<dyn JournalFile>,
    path: PathBuf,
    head: Option<JournalHead>,
    done: Vec<Done>,
    whole: Option<JournalEnd>,
    /// The ends of the first line and of each weight's.
    ends: Vec<LineEnd>,
}

/// Where a line ends.
#[derive(Debug, Clone, Copy, Default)]
struct LineEnd {
    /// In bytes.
    at: u64,
    /// XXH3 of the line, seeded with that of the line before.
    sum: u64,
}

impl Journal {
    /// The journal of an output, if there is one.
    pub(crate) fn find(output: &dyn Output, busy: Busy) -> Result<Option<Self>, SaveError> {
        match output.journal(busy)? {
            None => Ok(None),
            Some(file) => Self::of(file, output.path(JOURNAL)).map(Some),
        }
    }

    /// The journal in a file.
    pub(super) fn of(file: Box<dyn JournalFile>, path: PathBuf) -> Result<Self, SaveError> {
        let mut journal = Self::empty(file, path);
        journal.read()?;
        Ok(journal)
    }

    /// A new journal, in an output that has none.
    pub(crate) fn create(output: &dyn Output) -> Result<Self, SaveError> {
        Ok(Self::empty(output.new_journal()?, output.path(JOURNAL)))
    }

    fn empty(file: Box<dyn JournalFile>, path: PathBuf) -> Self {
        Self {
            file,
            path,
            head: None,
            done: Vec::new(),
            whole: None,
            ends: Vec::new(),
        }
    }

    fn read(&mut self) -> Result<(), SaveError> {
        let text = self.file.read().map_err(failed(&self.path))?;
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
        let changed = || wrong("its first line is not as it was written".to_owned());
        let (_, end) = unsealed(first, LineEnd::default()).ok_or_else(changed)?;
        let head: JournalHead =
            serde_json::from_value(head).map_err(|error| wrong(error.to_string()))?;
        let Some(identity) = &head.identity else {
            return Err(wrong("its first line says no identity".to_owned()));
        };
        let short = Identity::short(identity);
        let head = JournalHead { short, ..head };
        self.head = Some(head);
        self.ends.push(end);
        for line in lines.take_while(whole) {
            let Some((line, end)) = unsealed(line, self.end()) else {
                break;
            };
            let Ok(done) = serde_json::from_slice(&line) else {
                self.whole = serde_json::from_slice(&line).ok();
                break;
            };
            self.done.push(done);
            self.ends.push(end);
        }
        Ok(())
    }

    /// The end of the last line before the one of the complete checkpoint.
    fn end(&self) -> LineEnd {
        self.ends.last().copied().unwrap_or_default()
    }

    /// Whether the journal has a first line.
    pub(crate) fn is_begun(&self) -> bool {
        self.head.is_some()
    }

    /// Refuses a source or configuration that differs from the journal's, and names the first difference.
    pub(super) fn check(&self, now: &Identity) -> Result<(), SaveError> {
        let identity = self.head.as_ref().and_then(|head| head.identity.as_ref());
        match identity.and_then(|identity| now.difference(identity)) {
            None => Ok(()),
            Some(difference) => Err(SaveError::Changed {
                folder: self.folder(),
                difference: Box::new(difference),
            }),
        }
    }

    /// The source and configuration in short; null in a journal without a first line.
    pub(super) fn identity_in_short(&self) -> &Value {
        self.head.as_ref().map_or(&Value::Null, |head| &head.short)
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
            model,
            identity: identity.value(),
            becomes: &becomes,
        };
        self.done.clear();
        self.whole = None;
        self.ends.clear();
        self.append(&head)?;
        self.head = Some(JournalHead {
            identity: None,
            short: Identity::short(identity.value()),
            becomes,
        });
        self.sync()
    }

    /// Weights that are in files.
    pub(super) fn done(&self) -> &[Done] {
        &self.done
    }

    /// Forgets all but the first weights.
    pub(super) fn keep(&mut self, weights: usize) -> Result<(), SaveError> {
        self.done.truncate(weights);
        self.whole = None;
        self.ends.truncate(weights + 1);
        let LineEnd { at, .. } = self.end();
        self.file.cut(at).map_err(failed(&self.path))
    }

    /// Writes the line of a weight whose bytes the system has.
    pub(super) fn tell(&mut self, done: Done) -> Result<(), SaveError> {
        self.append(&done)?;
        self.done.push(done);
        Ok(())
    }

    /// Writes the line of a complete checkpoint, the last one.
    pub(super) fn close(mut self, files: BTreeMap<String, FileSum>) -> Result<(), SaveError> {
        self.append(&JournalEnd { files })?;
        self.sync()
    }

    /// The files of a complete checkpoint.
    pub(super) fn whole(&self) -> Option<&BTreeMap<String, FileSum>> {
        self.whole.as_ref().map(|whole| &whole.files)
    }

    /// A line counts when it is written whole; a torn line is overwritten.
    fn append(&mut self, line: &impl Serialize) -> Result<(), SaveError> {
        let line = serde_json::to_vec(line).expect("lines have no other keys than texts");
        let LineEnd { at, .. } = self.end();
        let (line, end) = sealed(line, self.end());
        let written = self.file.write_at(at, &line);
        written.map_err(SaveError::at(&self.path, line.len() as u64))?;
        self.ends.push(end);
        Ok(())
    }

    /// Waits until every line is where it survives.
    pub(super) fn sync(&mut self) -> Result<(), SaveError> {
        self.file.sync().map_err(failed(&self.path))
    }

    /// Removes the journal of a complete checkpoint.
    pub(super) fn remove(self) -> Result<(), SaveError> {
        self.file.remove().map_err(failed(&self.path))
    }

    fn folder(&self) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).to_owned()
    }
}

/// An object as a line that ends with its checksum.
fn sealed(mut object: Vec<u8>, before: LineEnd) -> (Vec<u8>, LineEnd) {
    let sum = xxh3_64_with_seed(&object, before.sum);
    object.pop();
    object.extend_from_slice(&seal(sum));
    let at = before.at + object.len() as u64;
    (object, LineEnd { at, sum })
}

/// The object of a line, unless its checksum is another.
fn unsealed(line: &[u8], before: LineEnd) -> Option<(Vec<u8>, LineEnd)> {
    let start = line.len().checked_sub(seal(0).len())?;
    let object = [&line[..start], b"}"].concat();
    let (again, end) = sealed(object.clone(), before);
    (again == line).then_some((object, end))
}

/// The end of a line: its last field.
fn seal(sum: u64) -> Vec<u8> {
    format!(",\"sum\":\"{sum:016x}\"}}\n").into_bytes()
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> SaveError + use<> {
    SaveError::at(path, 0)
}
