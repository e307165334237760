//! Bytes in flight, bounded: whoever wants to read waits until enough has been given back.

use std::sync::{
    Condvar, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

/// Bytes of source weights that may be in host memory at once, and the buffers they are in. Several loads may share one.
///
/// Buffers are kept and used again, since fresh memory costs a page fault for every 4 KiB. Kept
/// buffers count: those in use and those kept never exceed the bound together.
#[derive(Debug)]
pub struct InFlight {
    max: u64,
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    used: u64,
    /// What `used` came to, at most.
    peak: u64,
    kept: Vec<Vec<u8>>,
}

/// One run's share of the bytes in flight. Once it is closed, nobody borrows through it or waits any more.
#[derive(Debug)]
pub(super) struct Account<'a> {
    bytes: &'a InFlight,
    closed: AtomicBool,
}

/// A buffer on loan. Dropping it gives its bytes back.
#[derive(Debug)]
pub(super) struct Loan<'a> {
    bytes: &'a InFlight,
    buffer: Vec<u8>,
    len: usize,
}

/// Bytes in a buffer of somebody else's that count as long as this lives.
#[derive(Debug)]
pub(super) struct Permit<'a> {
    bytes: &'a InFlight,
    len: u64,
}

impl InFlight {
    /// At most `max` bytes, and a tile that cannot be split alone, however large.
    pub fn new(max: u64) -> Self {
        Self {
            max,
            state: Mutex::default(),
            freed: Condvar::new(),
        }
    }

    /// The bound.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The most that was in flight at once so far.
    pub fn peak(&self) -> u64 {
        self.lock().peak
    }

    /// A panic elsewhere leaves the counters true: they are changed after everything that can fail.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self, bytes: u64) {
        self.used += bytes;
        self.peak = self.peak.max(self.used);
    }
}

impl<'a> Account<'a> {
    pub(super) fn new(bytes: &'a InFlight) -> Self {
        Self {
            bytes,
            closed: AtomicBool::new(false),
        }
    }

    /// Waits for `len` bytes. A loan larger than the whole bound is granted when nothing else is in
    /// flight. `None` once the account is closed.
    pub(super) fn borrow(&self, len: usize) -> Option<Loan<'a>> {
        let mut state = self.wait(len as u64)?;
        let fits = |buffer: &Vec<u8>| {
            let used = state.used + buffer.len() as u64;
            buffer.len() >= len && (state.used == 0 || used <= self.bytes.max)
        };
        let buffer = match state.kept.iter().position(fits) {
            Some(fits) => state.kept.swap_remove(fits),
            None => {
                state.kept.clear();
                vec![0; len]
            }
        };
        state.take(buffer.len() as u64);
        Some(Loan {
            bytes: self.bytes,
            buffer,
            len,
        })
    }

    /// Waits for `len` bytes as [`borrow`](Self::borrow) does, and leaves the buffer to the caller.
    pub(super) fn permit(&self, len: usize) -> Option<Permit<'a>> {
        let len = len as u64;
        self.wait(len)?.take(len);
        let bytes = self.bytes;
        Some(Permit { bytes, len })
    }

    /// Until `len` bytes are free, or nothing is in flight; `None` once closed.
    fn wait(&self, len: u64) -> Option<MutexGuard<'a, State>> {
        let bytes = self.bytes;
        let mut state = bytes.lock();
        while !self.is_closed() && state.used > 0 && state.used + len > bytes.max {
            state = bytes
                .freed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        (!self.is_closed()).then_some(state)
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Closes the account once the guard is dropped.
    pub(super) fn close_on_drop(&self) -> impl Drop + '_ {
        struct Closing<'c, 'a>(&'c Account<'a>);
        impl Drop for Closing<'_, '_> {
            fn drop(&mut self) {
                // Under the lock, so that nobody is between looking and waiting.
                let state = self.0.bytes.lock();
                self.0.closed.store(true, Ordering::Relaxed);
                drop(state);
                self.0.bytes.freed.notify_all();
            }
        }
        Closing(self)
    }
}

/// Buffers are kept for the next tile, not for the next load.
impl Drop for Account<'_> {
    fn drop(&mut self) {
        let mut state = self.bytes.lock();
        if state.used == 0 {
            state.kept.clear();
        }
    }
}

impl Loan<'_> {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[..self.len]
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[..self.len]
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.bytes.lock().used -= self.len;
        self.bytes.freed.notify_all();
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        let mut state = self.bytes.lock();
        state.used -= self.buffer.len() as u64;
        let kept: u64 = state.kept.iter().map(|buffer| buffer.len() as u64).sum();
        if state.used + kept + self.buffer.len() as u64 <= self.bytes.max {
            state.kept.push(core::mem::take(&mut self.buffer));
        }
        drop(state);
        self.bytes.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would catch a bound that grants what it does not have, or never wakes a waiter, be it of another run.
    #[test]
    fn a_borrower_waits_until_enough_is_given_back() {
        let bytes = InFlight::new(100);
        let [account, other] = [&bytes, &bytes].map(Account::new);
        let first = account.borrow(80).expect("open");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| other.borrow(30).map(|loan| loan.bytes().len()));
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert!(
                !waiting.is_finished(),
                "30 more than the 20 left were granted"
            );
            drop(first);
            assert_eq!(waiting.join().expect("no panic"), Some(30));
        });
        assert_eq!(bytes.peak(), 80);
    }

    /// Would catch a deadlock on a tile larger than the bound.
    #[test]
    fn a_loan_larger_than_the_bound_passes_alone() {
        let bytes = InFlight::new(10);
        let loan = Account::new(&bytes).borrow(25);
        assert_eq!(loan.map(|loan| loan.bytes().len()), Some(25));
    }

    /// Would catch a reader that waits for ever after the converter has failed, and a run that ends another.
    #[test]
    fn closing_wakes_everybody_of_one_run() {
        let bytes = InFlight::new(10);
        let [account, other] = [&bytes, &bytes].map(Account::new);
        let held = account.borrow(10);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| account.borrow(5).is_none());
            let patient = scope.spawn(|| other.borrow(5).is_some());
            drop(account.close_on_drop());
            assert!(waiting.join().expect("no panic"));
            drop(held);
            assert!(patient.join().expect("no panic"));
        });
    }

    /// Would catch kept buffers that are not counted: memory would reach twice the bound.
    #[test]
    fn buffers_in_use_and_kept_never_exceed_the_bound() {
        let bytes = InFlight::new(100);
        let account = Account::new(&bytes);
        for len in [10, 20, 30, 40, 50, 60, 100, 5, 95] {
            drop(account.borrow(len));
            let state = bytes.lock();
            let kept: usize = state.kept.iter().map(Vec::len).sum();
            assert!(kept <= 100, "{kept} kept after a loan of {len}");
        }
        drop(account);
        assert!(bytes.lock().kept.is_empty(), "kept after the last run");
    }
}
