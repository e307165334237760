//! A folder where ranks meet: they agree about what they load, and learn of a rank that failed or is gone.
//!
//! ```text
//! FOLDER[/RUN]/rank-0.json    { nonce, beat, phase, facts, seen: { "1": nonce } }
//! FOLDER[/RUN]/rank-1.json    …
//! ```
//!
//! Each rank has one file, which it replaces by an atomic rename. Files of an earlier run may lie there: a rank counts as
//! present only once its file says that it has seen the number (nonce) that this process has drawn.

use core::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};
use std::{
    collections::BTreeMap,
    fs,
    hash::{BuildHasher, RandomState},
    path::{Path, PathBuf},
    process,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Instant,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Launched, RankError};
use crate::{
    config::Ranks,
    place::{Difference, folder::difference},
};

/// Between two looks at the folder.
const POLL: Duration = Duration::from_millis(20);
/// Signs of life in the time after which a silent rank is lost.
const BEATS: u32 = 10;

/// The file of a rank.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct RankNote {
    nonce: u64,
    beat: u64,
    phase: Phase,
    facts: Value,
    /// The nonces of the other ranks, by number.
    seen: BTreeMap<usize, u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Phase {
    Loading,
    Loaded,
    Failed(String),
}

/// A process among the others of its run. Shows signs of life until it is dropped.
#[derive(Debug)]
pub(crate) struct Meeting {
    own: Arc<OwnNote>,
    ranks: Ranks,
    deadline: Duration,
    beating: Option<JoinHandle<()>>,
}

/// The file of this process.
#[derive(Debug)]
struct OwnNote {
    folder: PathBuf,
    rank: usize,
    note: Mutex<RankNote>,
    ended: AtomicBool,
}

impl OwnNote {
    fn lock(&self) -> MutexGuard<'_, RankNote> {
        self.note.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the file.
    fn write(&self, change: impl FnOnce(&mut RankNote)) -> Result<(), RankError> {
        let mut note = self.lock();
        change(&mut note);
        let text = serde_json::to_string(&*note).unwrap_or_default();
        let path = file(&self.folder, self.rank);
        let part = self
            .folder
            .join(format!("rank-{}.{:x}.part", self.rank, note.nonce));
        let written = fs::write(&part, text).and_then(|()| fs::rename(&part, &path));
        written.map_err(|error| refused(&self.folder, error))
    }
}

fn file(folder: &Path, rank: usize) -> PathBuf {
    folder.join(format!("rank-{rank}.json"))
}

fn refused(folder: &Path, error: impl ToString) -> RankError {
    RankError::Folder {
        folder: folder.display().to_string(),
        reason: error.to_string(),
    }
}

/// The file of a rank, where it is whole.
fn look(folder: &Path, rank: usize) -> Option<RankNote> {
    let text = fs::read_to_string(file(folder, rank)).ok()?;
    serde_json::from_str(&text).ok()
}

impl Meeting {
    /// Waits until all ranks are here, and compares what they are about to load.
    ///
    /// # Errors
    ///
    /// [`RankError::Absent`] after `deadline`, [`RankError::Differs`], [`RankError::Twice`], [`RankError::Folder`].
    pub(crate) fn join(
        folder: &Path,
        launched: &Launched,
        facts: Value,
        deadline: Duration,
    ) -> Result<Self, RankError> {
        let folder = match &launched.run {
            Some(run) => folder.join(run),
            None => folder.to_owned(),
        };
        fs::create_dir_all(&folder).map_err(|error| refused(&folder, error))?;
        let ranks = launched.ranks;
        let own = Arc::new(OwnNote {
            folder,
            rank: ranks.rank,
            note: Mutex::new(RankNote {
                nonce: RandomState::new().hash_one((process::id(), ranks.rank)),
                beat: 0,
                phase: Phase::Loading,
                facts,
                seen: BTreeMap::new(),
            }),
            ended: AtomicBool::new(false),
        });
        own.write(|_| {})?;
        let beating = beat(&own, deadline / BEATS);
        let meeting = Self {
            own,
            ranks,
            deadline,
            beating,
        };
        meeting.gather()?;
        Ok(meeting)
    }

    fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let Ranks {
            rank, world_size, ..
        } = self.ranks;
        (0..world_size).filter(move |other| *other != rank)
    }

    fn gather(&self) -> Result<(), RankError> {
        let folder = &self.own.folder;
        let begun = Instant::now();
        loop {
            let (nonce, facts) = {
                let own = self.own.lock();
                (own.nonce, own.facts.clone())
            };
            let rank = self.ranks.rank;
            if look(folder, rank).is_some_and(|note| note.nonce != nonce) {
                let folder = folder.display().to_string();
                return Err(RankError::Twice { folder, rank });
            }
            let others: Vec<_> = self
                .others()
                .map(|other| (other, look(folder, other)))
                .collect();
            let nonces = others.iter();
            let seen = nonces.filter_map(|(other, note)| Some((*other, note.as_ref()?.nonce)));
            let seen: BTreeMap<usize, u64> = seen.collect();
            // First, so that the others learn of a difference too.
            if self.own.lock().seen != seen {
                self.own.write(|note| note.seen = seen)?;
            }
            let mut absent = Vec::new();
            for (other, note) in others {
                match note.filter(|note| note.seen.get(&rank) == Some(&nonce)) {
                    Some(note) => self.compare(other, &note, &facts)?,
                    None => absent.push(other),
                }
            }
            if absent.is_empty() {
                return Ok(());
            }
            if begun.elapsed() > self.deadline {
                return Err(RankError::Absent {
                    folder: folder.display().to_string(),
                    absent,
                    seconds: self.deadline.as_secs(),
                });
            }
            thread::sleep(POLL);
        }
    }

    fn compare(&self, other: usize, note: &RankNote, facts: &Value) -> Result<(), RankError> {
        if let Phase::Failed(reason) = &note.phase {
            let (rank, reason) = (other, reason.clone());
            return Err(RankError::Failed { rank, reason });
        }
        match difference("", &note.facts, facts) {
            None => Ok(()),
            Some(Difference { field, was, now }) => Err(RankError::Differs {
                rank: self.ranks.rank,
                other,
                field,
                theirs: was,
                ours: now,
            }),
        }
    }

    /// Says how the load of this rank has ended, and waits for the others unless it failed.
    ///
    /// # Errors
    ///
    /// [`RankError::Failed`] with the error of another rank, [`RankError::Lost`] for one without a sign of life.
    pub(crate) fn finish(self, failure: Option<String>) -> Result<(), RankError> {
        if let Some(reason) = failure {
            return self.own.write(|note| note.phase = Phase::Failed(reason));
        }
        self.own.write(|note| note.phase = Phase::Loaded)?;
        let mut heard: BTreeMap<usize, (u64, Instant)> = BTreeMap::new();
        let seen = self.own.lock().seen.clone();
        let mut waiting: Vec<usize> = self.others().collect();
        while !waiting.is_empty() {
            let mut still = Vec::new();
            for other in waiting {
                let note = look(&self.own.folder, other);
                // The file of a later run says nothing about this one.
                let note = note.filter(|note| seen.get(&other) == Some(&note.nonce));
                let beat = match note {
                    Some(RankNote {
                        phase: Phase::Loaded,
                        ..
                    }) => continue,
                    Some(RankNote {
                        phase: Phase::Failed(reason),
                        ..
                    }) => {
                        return Err(RankError::Failed {
                            rank: other,
                            reason,
                        });
                    }
                    Some(note) => note.beat,
                    None => u64::MAX,
                };
                let (last, since) = heard.entry(other).or_insert((beat, Instant::now()));
                if *last != beat {
                    (*last, *since) = (beat, Instant::now());
                }
                if since.elapsed() > self.deadline {
                    return Err(RankError::Lost {
                        rank: other,
                        seconds: self.deadline.as_secs(),
                    });
                }
                still.push(other);
            }
            waiting = still;
            if !waiting.is_empty() {
                thread::sleep(POLL);
            }
        }
        Ok(())
    }
}

/// Writes a sign of life from time to time.
fn beat(own: &Arc<OwnNote>, every: Duration) -> Option<JoinHandle<()>> {
    let own = Arc::clone(own);
    let beat = move || {
        let mut last = Instant::now();
        while !own.ended.load(Ordering::Relaxed) {
            thread::park_timeout(every);
            if last.elapsed() >= every && !own.ended.load(Ordering::Relaxed) {
                last = Instant::now();
                // The next look of the process itself tells of a folder that is gone.
                let _ = own.write(|note| note.beat += 1);
            }
        }
    };
    // Without a thread the others lose this rank, which is what such a machine deserves.
    let thread = thread::Builder::new().name("firebox-beat".to_owned());
    thread.spawn(beat).ok()
}

impl Drop for Meeting {
    fn drop(&mut self) {
        self.own.ended.store(true, Ordering::Relaxed);
        if let Some(beating) = self.beating.take() {
            beating.thread().unpark();
            let _ = beating.join();
        }
    }
}
