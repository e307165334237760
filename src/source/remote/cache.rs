//! A cache of parts of remote files, in a folder that stays within a number of bytes.
//!
//! ```text
//! DIR/firebox-ranges/<address, file and ETag, hashed>.<nth MiB>      1 MiB of a file, and a checksum of it
//! ```
//!
//! A part that was not used for the longest time makes room. Parts that another program damages, cuts or removes are fetched again;
//! where nothing can be written, the model is read without a cache.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use xxhash_rust::xxh3::xxh3_128;

use crate::source::SourceError;

/// Bytes of a part.
const PART: u64 = 1 << 20;
/// The folder in the folder that was named, which may have other things in it.
const FOLDER: &str = "firebox-ranges";
/// Bytes of the checksum behind a part.
const SUM: usize = size_of::<u128>();

/// A cache of parts of remote files.
#[derive(Debug)]
pub(super) struct RangeCache {
    folder: PathBuf,
    limit: u64,
    /// Bytes of all parts.
    used: Mutex<u64>,
    /// Distinguishes files that are being written.
    written: AtomicU64,
    failed: AtomicBool,
}

/// Fetches bytes of a file from an offset on.
pub(super) type Fetch<'f> = &'f dyn Fn(u64, &mut [u8]) -> Result<(), SourceError>;

impl RangeCache {
    /// In `folder`, at most `limit` bytes.
    pub(super) fn new(folder: &Path, limit: u64) -> io::Result<Self> {
        let folder = folder.join(FOLDER);
        fs::create_dir_all(&folder)?;
        let used = within(&folder, limit)?;
        Ok(Self {
            folder,
            limit,
            used: Mutex::new(used),
            written: AtomicU64::new(0),
            failed: AtomicBool::new(false),
        })
    }

    /// Fills `into` from byte `start` on of the file that `state` names, which has `len` bytes.
    pub(super) fn read(
        &self,
        state: &str,
        len: u64,
        start: u64,
        into: &mut [u8],
        fetch: Fetch<'_>,
    ) -> Result<(), SourceError> {
        let name = format!("{:032x}", xxh3_128(state.as_bytes()));
        let (mut at, mut rest) = (start, into);
        while !rest.is_empty() {
            let nth = at / PART;
            let part = nth * PART..len.min((nth + 1) * PART);
            let here = rest.len().min((part.end - at) as usize);
            let first = (at - part.start) as usize;
            if self.find(&name, nth, (part.end - part.start) as usize, |bytes| {
                rest[..here].copy_from_slice(&bytes[first..first + here]);
            }) {
                (at, rest) = (at + here as u64, &mut rest[here..]);
                continue;
            }
            // As many whole parts as follow and are not there either, by one request.
            let whole = self.missing(&name, at, len, rest.len());
            let taken = if whole > 0 {
                fetch(at, &mut rest[..whole])?;
                for (after, bytes) in rest[..whole].chunks(PART as usize).enumerate() {
                    self.keep(&name, nth + after as u64, bytes);
                }
                whole
            } else {
                let mut bytes = vec![0; (part.end - part.start) as usize];
                fetch(part.start, &mut bytes)?;
                self.keep(&name, nth, &bytes);
                rest[..here].copy_from_slice(&bytes[first..first + here]);
                here
            };
            (at, rest) = (at + taken as u64, &mut rest[taken..]);
        }
        Ok(())
    }

    /// Bytes from `at` on, which begin a part, that are whole parts and not there.
    fn missing(&self, name: &str, at: u64, len: u64, most: usize) -> usize {
        if !at.is_multiple_of(PART) {
            return 0;
        }
        let end = at + most as u64;
        // The last part of a file is shorter.
        let end = if end == len { end } else { end / PART * PART };
        let mut next = at;
        while next < end && !self.path(name, next / PART).exists() {
            next = len.min(next + PART).min(end);
        }
        (next - at) as usize
    }

    /// Hands a part to `use_it`, where it is there as it was written.
    fn find(&self, name: &str, nth: u64, len: usize, use_it: impl FnOnce(&[u8])) -> bool {
        let path = self.path(name, nth);
        let Ok(read) = fs::read(&path) else {
            return false;
        };
        let Some((bytes, sum)) = read.split_last_chunk::<SUM>() else {
            return false;
        };
        if bytes.len() != len || u128::from_le_bytes(*sum) != xxh3_128(bytes) {
            return false;
        }
        use_it(bytes);
        // What was used lately goes last.
        if let Ok(file) = File::open(&path) {
            let _ = file.set_modified(SystemTime::now());
        }
        true
    }

    /// Writes a part, and makes room for it. A cache that cannot be written to is no reason to stop.
    fn keep(&self, name: &str, nth: u64, bytes: &[u8]) {
        if let Err(error) = self.try_keep(name, nth, bytes)
            && !self.failed.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(folder = %self.folder.display(), %error, "cannot write the cache, so it is left alone");
        }
    }

    fn try_keep(&self, name: &str, nth: u64, bytes: &[u8]) -> io::Result<()> {
        let size = (bytes.len() + SUM) as u64;
        if self.failed.load(Ordering::Relaxed) || size > self.limit {
            return Ok(());
        }
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if *used + size > self.limit {
            *used = within(&self.folder, self.limit - size)?;
        }
        let path = self.path(name, nth);
        let number = self.written.fetch_add(1, Ordering::Relaxed);
        let draft = path.with_extension(format!("{}-{number}", std::process::id()));
        fs::write(&draft, [bytes, &xxh3_128(bytes).to_le_bytes()].concat())?;
        fs::rename(&draft, &path)?;
        *used += size;
        Ok(())
    }

    fn path(&self, name: &str, nth: u64) -> PathBuf {
        self.folder.join(format!("{name}.{nth}"))
    }
}

/// Removes the parts that were not used for the longest time until `limit` bytes are left at most; how many are. Other processes write
/// here too.
fn within(folder: &Path, limit: u64) -> io::Result<u64> {
    let mut there = parts(folder)?;
    there.sort_by_key(|(_, modified, _)| *modified);
    let mut used = there.iter().map(|(_, _, bytes)| bytes).sum();
    for (path, _, bytes) in there {
        if used <= limit {
            break;
        }
        fs::remove_file(path)?;
        used -= bytes;
    }
    Ok(used)
}

/// All parts: their paths, when they were used last, and their bytes.
fn parts(folder: &Path) -> io::Result<Vec<(PathBuf, SystemTime, u64)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // One that another process has just removed is none.
        if let Ok(facts) = entry.metadata()
            && facts.is_file()
        {
            found.push((entry.path(), facts.modified()?, facts.len()));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// Catches bytes of another place, parts that are fetched twice, a damaged part that is believed, and a folder that grows.
    #[test]
    fn parts_are_fetched_once_and_stay_within_the_limit() {
        let folder = tempfile::tempdir().expect("a folder");
        let len = 3 * PART + 1000;
        let file: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        let fetched = RefCell::new(Vec::new());
        let fetch = |at: u64, into: &mut [u8]| {
            fetched.borrow_mut().push((at, into.len() as u64));
            into.copy_from_slice(&file[at as usize..at as usize + into.len()]);
            Ok(())
        };
        let read = |cache: &RangeCache, at: u64, bytes: u64| {
            let mut into = vec![0; bytes as usize];
            cache.read("a", len, at, &mut into, &fetch).expect("read");
            assert_eq!(into, file[at as usize..(at + bytes) as usize]);
            fetched.take()
        };
        let cache = RangeCache::new(folder.path(), 100 * PART).expect("writable");
        assert_eq!(read(&cache, 10, 20), [(0, PART)]);
        assert_eq!(read(&cache, 0, len), [(PART, len - PART)]);
        assert_eq!(read(&cache, 5, len - 5), []);
        let again = RangeCache::new(folder.path(), 100 * PART).expect("writable");
        assert_eq!(read(&again, PART - 1, 2), []);

        let damaged = again.path(&format!("{:032x}", xxh3_128(b"a")), 1);
        fs::write(&damaged, b"cut").expect("writable");
        assert_eq!(read(&again, PART, 10), [(PART, PART)]);

        let small = RangeCache::new(folder.path(), 2 * PART).expect("writable");
        read(&small, 0, len);
        let all: u64 = parts(&small.folder)
            .expect("listed")
            .iter()
            .map(|part| part.2)
            .sum();
        assert!(all <= 2 * PART, "{all}");
    }
}
