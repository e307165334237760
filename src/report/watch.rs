//! The anonymous memory of this process over time.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::Series;
use crate::target::memory::anonymous;

/// Watches this process's anonymous memory from its own thread, until stopped.
#[derive(Debug)]
pub(crate) struct MemoryWatch {
    shared: Arc<WatchShared>,
    before: Option<u64>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct WatchShared {
    since: Instant,
    seen: Mutex<Series>,
    stop: AtomicBool,
}

/// Looks at memory at moments that matter, for a watch.
#[derive(Debug)]
pub(crate) struct Looker(Arc<WatchShared>);

impl Looker {
    pub(crate) fn look(&self) {
        self.0.look();
    }
}

/// What a watch has seen, in bytes; nothing where the system does not tell.
#[derive(Debug)]
pub(crate) struct Seen {
    /// When it started.
    pub(crate) before: Option<u64>,
    /// From then on.
    pub(crate) since: Series,
}

/// Short against the time a tile takes, long against the microseconds that asking costs.
const EVERY: Duration = Duration::from_millis(2);

impl MemoryWatch {
    /// Starts watching; times count from `since`. Where the system does not tell, nothing is watched.
    pub(crate) fn start(since: Instant) -> Self {
        Self::every(EVERY, since)
    }

    /// The same, with a look only so often: for what goes on for hours.
    pub(crate) fn every(pause: Duration, since: Instant) -> Self {
        let shared = Arc::new(WatchShared {
            since,
            seen: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let before = shared.look();
        let watched = Arc::clone(&shared);
        let watch = move || {
            while !watched.stop.load(Ordering::Relaxed) {
                watched.look();
                std::thread::park_timeout(pause);
            }
        };
        let thread = before.map(|_| {
            std::thread::Builder::new()
                .name("firebox-memory".to_owned())
                .spawn(watch)
        });
        let thread = thread.and_then(Result::ok);
        Self {
            shared,
            before,
            thread,
        }
    }

    /// What can have it look at other times as well.
    pub(crate) fn looker(&self) -> Looker {
        Looker(Arc::clone(&self.shared))
    }

    /// Stops watching and says what was seen.
    pub(crate) fn stop(self) -> Seen {
        self.shared.look();
        Seen {
            before: self.before,
            since: std::mem::take(&mut *self.shared.seen()),
        }
    }
}

impl Drop for MemoryWatch {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A watcher that panicked has nothing left to tell.
            let _ = thread.join();
        }
    }
}

impl WatchShared {
    /// What there is now.
    fn look(&self) -> Option<u64> {
        let mut seen = self.seen();
        let now = anonymous()?;
        seen.push(self.since.elapsed(), now);
        Some(now)
    }

    fn seen(&self) -> MutexGuard<'_, Series> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would catch a watch that only looks at the ends, and one that counts file pages.
    #[test]
    #[cfg(target_os = "linux")]
    fn a_watch_sees_memory_that_is_gone_again() {
        // Far more than the tests beside this one have and free meanwhile.
        const LEN: usize = 256 << 20;
        let watch = MemoryWatch::start(Instant::now());
        let block = vec![1_u8; LEN];
        std::thread::sleep(EVERY * 10);
        assert_eq!(std::hint::black_box(&block)[LEN - 1], 1);
        drop(block);
        std::thread::sleep(EVERY * 10);
        let seen = watch.stop();
        let (_, peak) = seen.since.peak().expect("linux tells");
        let grown = peak.saturating_sub(seen.before.expect("linux tells"));
        assert!(grown >= LEN as u64 / 2, "saw {grown} of {LEN} bytes");
    }
}
