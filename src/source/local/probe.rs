//! Whether a disk is better read through the page cache or past it, and through it by a map or by copies.

use std::{
    io,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use super::open::{OpenFile, is_local};
use crate::{config::Reading, source::Probe};

/// Fewer bytes of weights than this are not worth a look: 1 GiB.
const BYTES_MIN: u64 = 1 << 30;

/// Places at which the page cache is looked at; the weights are cut into as many segments.
const SAMPLES: u64 = 64;

/// Pages are of this size or a part of it: 64 KiB.
const PAGE_MAX: u64 = 64 << 10;

/// Bytes of one timed range. There are four, two for each way, so that no more than 56 MiB are read.
const RANGE: u64 = 14 << 20;

/// Bytes of one timed read.
const REQUEST: usize = 2 << 20;

/// How long a range is read at most, but for the request that is under way then.
const TIME: Duration = Duration::from_millis(20);

/// A larger share than this in the page cache settles it.
const CACHED: f64 = 0.1;

/// How much faster direct reads must be where the page cache could hold the weights for the next load.
const CLEARLY: f64 = 1.5;

/// How much slower they may be where it could not, and would give up everything else for them.
const NEARLY: f64 = 0.9;

/// Looks at the weights of a folder.
pub(super) fn look(files: &[OpenFile]) -> Probe {
    let started = Instant::now();
    let mut facts = Facts {
        weight_bytes: files.iter().map(|file| file.len).sum(),
        ..Facts::default()
    };
    if facts.weight_bytes >= BYTES_MIN {
        facts.look(files);
    }
    let (chosen, reason) = facts.choose();
    let probe = Probe {
        weight_bytes: facts.weight_bytes,
        cached_fraction: facts.cached,
        buffered_gbps: facts.buffered,
        direct_gbps: facts.direct,
        chosen,
        reason,
    };
    tracing::debug!(?probe, elapsed = ?started.elapsed(), "chose how to read");
    probe
}

/// The facts that the choice depends on.
#[derive(Debug, Clone, Copy, Default)]
struct Facts {
    weight_bytes: u64,
    /// Whether all files are on disks of this machine.
    local: bool,
    /// Bytes that the page cache could take without pushing out programs.
    available: Option<u64>,
    cached: Option<f64>,
    buffered: Option<f64>,
    direct: Option<f64>,
}

impl Facts {
    fn choose(&self) -> (Reading, &'static str) {
        if self.weight_bytes < BYTES_MIN {
            return (Reading::Buffered, "little to read");
        }
        let through = if self.local {
            Reading::Mapped
        } else {
            Reading::Buffered
        };
        match self.cached {
            None => return (Reading::Buffered, "the page cache cannot be asked"),
            Some(cached) if cached > CACHED => return (through, "in the page cache"),
            Some(_) => {}
        }
        let (Some(buffered), Some(direct)) = (self.buffered, self.direct) else {
            return (through, "direct reads could not be timed");
        };
        if direct >= CLEARLY * buffered {
            return (Reading::Direct, "direct reads are faster");
        }
        let fits = self.available.is_none_or(|free| self.weight_bytes <= free);
        if !fits && direct >= NEARLY * buffered {
            return (Reading::Direct, "more than the page cache could hold");
        }
        (through, "direct reads are not worth it")
    }

    fn look(&mut self, files: &[OpenFile]) {
        self.local = files.iter().all(|file| is_local(&file.file));
        self.available = available();
        let samples: Vec<Sample<'_>> = (0..SAMPLES)
            .filter_map(|i| Sample::at(files, self.weight_bytes / SAMPLES * i))
            .collect();
        let known: Option<Vec<bool>> = samples.iter().map(Sample::is_cached).collect();
        let Some(cached) = known.filter(|known| !known.is_empty()) else {
            return;
        };
        let held = cached.iter().filter(|cached| **cached).count();
        self.cached = Some(held as f64 / cached.len() as f64);
        if self.cached > Some(CACHED) {
            return;
        }

        // Ranges between two places that are not in the page cache, far from each other.
        let free: Vec<&Sample<'_>> = samples
            .windows(2)
            .zip(cached.windows(2))
            .filter(|(samples, cached)| samples[0].leads_to(&samples[1]) && **cached == [false; 2])
            .map(|(samples, _)| &samples[0])
            .collect();
        if free.len() < 4 || free[0].file.direct().is_none() {
            return;
        }
        let ranges = [0, 1, 2, 3].map(|i| free[free.len() * i / 4]);
        // Written to, or the first reads would be the ones that take the page faults.
        let mut buffers = [vec![1; REQUEST], vec![1; REQUEST]];
        let direct = |file: &OpenFile, offset, into: &mut [u8]| match file.direct() {
            Some(direct) => direct.read_exact_at(offset, into),
            None => Err(io::ErrorKind::Unsupported.into()),
        };
        let buffered = |file: &OpenFile, offset, into: &mut [u8]| file.read_exact_at(offset, into);
        // In turn, and direct reads at their worst against the others at their best: something else on this machine
        // must not choose them by holding up the others once.
        let rates = [
            rate(ranges[0], &mut buffers, direct),
            rate(ranges[1], &mut buffers, buffered),
            rate(ranges[2], &mut buffers, direct),
            rate(ranges[3], &mut buffers, buffered),
        ];
        self.direct = rates[0].zip(rates[2]).map(|(one, two)| f64::min(one, two));
        self.buffered = rates[1].zip(rates[3]).map(|(one, two)| f64::max(one, two));
    }
}

/// A place in the weights.
struct Sample<'a> {
    file: &'a OpenFile,
    offset: u64,
}

impl<'a> Sample<'a> {
    /// Byte `at` of all files, one after the other, and from there back to where a page begins.
    fn at(files: &'a [OpenFile], mut at: u64) -> Option<Self> {
        for file in files {
            if at < file.len {
                return Some(Self {
                    file,
                    offset: at - at % PAGE_MAX,
                });
            }
            at -= file.len;
        }
        None
    }

    /// Whether a timed range fits between this place and the next.
    fn leads_to(&self, next: &Self) -> bool {
        std::sync::Arc::ptr_eq(self.file, next.file) && next.offset >= self.first() + RANGE
    }

    /// Where the timed range begins: behind what a look at the page cache may have brought into it.
    fn first(&self) -> u64 {
        (self.offset + 1).next_multiple_of(1 << 19)
    }

    /// Two questions, since each has its own wrong "yes". Of a file that one may only read, `mincore` says that all of it
    /// is there. A read that must not wait has the disk asked all the same, and on a virtual machine whose disk is
    /// answered by the same processor, the answer is there before the read gives up.
    #[cfg(target_os = "linux")]
    fn is_cached(&self) -> Option<bool> {
        use rustix::io::{Errno, ReadWriteFlags, preadv2};

        let file = &self.file.file;
        // SAFETY: Nothing is read from this map.
        let map = unsafe {
            memmap2::MmapOptions::new()
                .offset(self.offset)
                .len(1)
                .map(file)
        };
        let map = map.ok()?;
        let mut resident = 0;
        // SAFETY: The map begins with a page, since `offset` is a multiple of every page size; it is not longer than
        // that page, of which one byte is written.
        let told = unsafe { libc::mincore(map.as_ptr().cast_mut().cast(), 1, &raw mut resident) };
        if told == 0 && resident & 1 == 0 {
            return Some(false);
        }
        let mut byte = [0];
        let mut into = [io::IoSliceMut::new(&mut byte)];
        match preadv2(file, &mut into, self.offset, ReadWriteFlags::NOWAIT) {
            Ok(read) => Some(read == 1),
            Err(Errno::AGAIN) => Some(false),
            Err(_) => None,
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn is_cached(&self) -> Option<bool> {
        None
    }
}

/// GB/s of two threads that read a range together, in order, as a load does; each makes one request at least.
fn rate(
    range: &Sample<'_>,
    buffers: &mut [Vec<u8>; 2],
    read: impl Fn(&OpenFile, u64, &mut [u8]) -> io::Result<()> + Sync,
) -> Option<f64> {
    let (next, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let started = Instant::now();
    std::thread::scope(|scope| {
        for buffer in buffers {
            scope.spawn(|| {
                loop {
                    let offset = next.fetch_add(REQUEST as u64, Ordering::Relaxed);
                    if offset >= RANGE {
                        return;
                    }
                    if read(range.file, range.first() + offset, buffer).is_err() {
                        failed.store(true, Ordering::Relaxed);
                    }
                    if started.elapsed() >= TIME {
                        return;
                    }
                }
            });
        }
    });
    let done = next.into_inner().min(RANGE);
    (!failed.into_inner()).then(|| done as f64 / started.elapsed().as_secs_f64() / 1e9)
}

/// Memory that could be had without swapping, page cache included.
fn available() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    /// Every row that differs from the one above it in one fact.
    #[test]
    fn the_choice() {
        type Row = (
            u64,
            Option<u64>,
            Option<f64>,
            Option<f64>,
            Option<f64>,
            &'static str,
        );
        let table: [Row; 17] = [
            // weights GiB, free GiB, cached, buffered, direct
            (
                0,
                Some(64),
                Some(0.0),
                Some(1.0),
                Some(9.0),
                "buffered: little to read",
            ),
            (
                1,
                Some(64),
                Some(0.0),
                Some(1.0),
                Some(9.0),
                "direct: direct reads are faster",
            ),
            (
                16,
                Some(64),
                Some(0.0),
                Some(2.0),
                Some(3.0),
                "direct: direct reads are faster",
            ),
            (
                16,
                Some(64),
                Some(0.0),
                Some(2.0),
                Some(2.9),
                "mapped: direct reads are not worth it",
            ),
            (
                16,
                Some(64),
                Some(0.1),
                Some(2.0),
                Some(3.0),
                "direct: direct reads are faster",
            ),
            (
                16,
                Some(64),
                Some(0.11),
                Some(2.0),
                Some(3.0),
                "mapped: in the page cache",
            ),
            (
                16,
                Some(64),
                Some(1.0),
                None,
                None,
                "mapped: in the page cache",
            ),
            (
                16,
                Some(64),
                None,
                Some(2.0),
                Some(3.0),
                "buffered: the page cache cannot be asked",
            ),
            (
                16,
                Some(64),
                Some(0.0),
                Some(2.0),
                None,
                "mapped: direct reads could not be timed",
            ),
            (
                16,
                Some(64),
                Some(0.0),
                None,
                Some(3.0),
                "mapped: direct reads could not be timed",
            ),
            (
                16,
                Some(16),
                Some(0.0),
                Some(2.0),
                Some(1.8),
                "mapped: direct reads are not worth it",
            ),
            (
                17,
                Some(16),
                Some(0.0),
                Some(2.0),
                Some(1.8),
                "direct: more than the page cache could hold",
            ),
            (
                17,
                Some(16),
                Some(0.0),
                Some(2.0),
                Some(1.7),
                "mapped: direct reads are not worth it",
            ),
            (
                17,
                Some(16),
                Some(0.5),
                Some(2.0),
                Some(1.8),
                "mapped: in the page cache",
            ),
            (
                17,
                Some(16),
                Some(0.0),
                Some(2.0),
                Some(3.0),
                "direct: direct reads are faster",
            ),
            (
                17,
                None,
                Some(0.0),
                Some(2.0),
                Some(1.8),
                "mapped: direct reads are not worth it",
            ),
            (
                17,
                None,
                Some(0.0),
                Some(2.0),
                Some(3.0),
                "direct: direct reads are faster",
            ),
        ];
        for row in table {
            let (gib, free, cached, buffered, direct, expected) = row;
            let elsewhere = expected.replace("mapped", "buffered");
            for (local, expected) in [(true, expected), (false, &elsewhere)] {
                let facts = Facts {
                    weight_bytes: gib * GIB,
                    local,
                    available: free.map(|gib| gib * GIB),
                    cached,
                    buffered,
                    direct,
                };
                let (chosen, reason) = facts.choose();
                assert_eq!(format!("{chosen}: {reason}"), expected, "{row:?}, {local}");
            }
        }
    }
}
