//! A folder of the cache of packed weights: its journal tells of every byte, and each load compares them before it uses any.
//!
//! Memory and disks lose bits, and a packed weight with another bit is another weight without an error. The comparison reads
//! each file once more than the load; the load then finds it in the page cache.

use core::ops::Range;
use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
};

use rayon::{ThreadPool, prelude::*};

use super::{
    SaveError,
    file_sum::FileSum,
    identity::Identity,
    journal::{Done, JOURNAL, Journal},
    local::LocalJournal,
    written::{Written, checksum, ranges},
};
use crate::source::checkpoint::CONFIG;

/// What a folder of the cache has.
#[derive(Debug)]
pub(crate) enum Kept {
    /// The packed weights, every byte as it was written.
    Whole,
    /// None, or those of a save that was interrupted.
    Unfinished,
    /// Files that are not as they were written, and the first difference.
    Damaged(String),
}

/// What `folder` has of `identity`. Needs no right to write there; `workers` compute the checksums.
pub(crate) fn look(folder: &Path, identity: &Identity, workers: &ThreadPool) -> Kept {
    let is_complete = folder.join(CONFIG).exists();
    let found = LocalJournal::look(folder).and_then(|file| {
        let read = |file| Journal::of(file, folder.join(JOURNAL));
        file.map(read).transpose()
    });
    let journal = match found {
        Ok(Some(journal)) => journal,
        Ok(None) if is_complete => return Kept::Damaged("it has no journal".to_owned()),
        Ok(None) => return Kept::Unfinished,
        Err(error) => return Kept::Damaged(error.to_string()),
    };
    if let Err(error) = journal.check(identity) {
        return Kept::Damaged(error.to_string());
    }
    let Some(files) = journal.whole().filter(|_| is_complete) else {
        return Kept::Unfinished;
    };
    match workers.install(|| compare(folder, files, journal.done())) {
        Ok(()) => Kept::Whole,
        Err(difference) => Kept::Damaged(difference),
    }
}

/// Empties the journal of a damaged folder: the next save into it begins anew.
pub(crate) fn forget(folder: &Path) -> Result<(), SaveError> {
    LocalJournal::forget(folder)
}

/// Some bytes that have to have a checksum.
struct KeptPart<'a> {
    path: PathBuf,
    /// Their name for people.
    name: &'a str,
    range: Range<u64>,
    xxh3: &'a str,
}

fn compare(folder: &Path, files: &BTreeMap<String, FileSum>, done: &[Done]) -> Result<(), String> {
    let mut tensors: BTreeMap<&str, Vec<Written>> = BTreeMap::new();
    for done in done {
        let of_file = tensors.entry(&done.file).or_default();
        of_file.extend_from_slice(&done.tensors);
    }
    let mut parts = Vec::new();
    for (name, sum) in files {
        let path = folder.join(name);
        let bytes = path
            .metadata()
            .map_err(|error| format!("{name}: {error}"))?;
        if bytes.len() != sum.bytes() {
            let found = bytes.len();
            return Err(format!("{name} has {found} bytes and had {}", sum.bytes()));
        }
        let tensors = tensors.get(&**name).map_or(&[][..], Vec::as_slice);
        let base = sum.bytes() - tensors.iter().map(Written::bytes).sum::<u64>();
        parts.push(KeptPart {
            path: path.clone(),
            name,
            range: 0..base,
            xxh3: &sum.xxh3,
        });
        parts.extend(ranges(tensors).map(|(tensor, at)| KeptPart {
            path: path.clone(),
            name: &tensor.name,
            range: base + at.start..base + at.end,
            xxh3: &tensor.xxh3,
        }));
    }
    let difference = |part: &KeptPart<'_>| {
        let found = File::open(&part.path).and_then(|file| checksum(&file, part.range.clone()));
        match found {
            Ok(found) if found == part.xxh3 => None,
            Ok(_) => Some(format!("{} has other bytes than were written", part.name)),
            Err(error) => Some(format!("{}: {error}", part.name)),
        }
    };
    match parts.par_iter().find_map_any(difference) {
        None => Ok(()),
        Some(difference) => Err(difference),
    }
}
