//! Bytes in flight, bounded: a reader waits until enough of them are free.

use std::sync::{
    Arc, Condvar, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

/// Buffers of one account that are on loan at most. A reader that is far ahead of the converters would fill fresh memory,
/// which costs more than the reads win.
pub(super) const LOANS_MAX: usize = 16;

/// Bytes of source weights that may be in host memory at once, and the buffers they are in. Several loads may share one.
///
/// Buffers are used again, since fresh memory costs a page fault for every 4 KiB. Spare
/// buffers count: those in use and those to spare never exceed the bound together.
#[derive(Debug)]
pub struct InFlight {
    max: u64,
    state: Mutex<FlightState>,
    freed: Condvar,
}

#[derive(Debug, Default)]
struct FlightState {
    /// Bytes in use or set aside.
    used: u64,
    /// The largest value of `used`.
    peak: u64,
    /// Bytes that are set aside, part of `used`.
    aside: u64,
    /// Buffers to be used again.
    spare: Vec<Vec<u8>>,
}

/// One run's share of the bytes in flight. Once it is closed, it grants nothing, and no thread waits for it.
#[derive(Debug)]
pub(super) struct Account<'a> {
    bytes: &'a InFlight,
    /// Bytes that are set aside for this account.
    aside: u64,
    /// Whether it waits until others have freed their bytes.
    waits: bool,
    /// Loans of this account, changed under the lock of `bytes`.
    loans: Arc<AtomicUsize>,
    closed: AtomicBool,
}

/// A buffer on loan. Its bytes are free again when it is dropped.
#[derive(Debug)]
pub(super) struct Loan<'a> {
    bytes: &'a InFlight,
    buffer: Vec<u8>,
    len: usize,
    /// Bytes that count for it, beside those that were set aside.
    counted: u64,
    loans: Arc<AtomicUsize>,
}

/// Bytes in another buffer, which count as long as this lives.
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

    /// What nobody has set aside of them.
    pub(crate) fn free(&self) -> u64 {
        self.max.saturating_sub(self.lock().aside)
    }

    /// The most that was in flight at once so far.
    pub fn peak(&self) -> u64 {
        self.lock().peak
    }

    /// A panic of another thread leaves the counters right: they change after every step that can fail.
    fn lock(&self) -> MutexGuard<'_, FlightState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FlightState {
    fn take(&mut self, bytes: u64) {
        self.used += bytes;
        self.peak = self.peak.max(self.used);
    }
}

impl<'a> Account<'a> {
    pub(super) fn new(bytes: &'a InFlight) -> Self {
        Self {
            bytes,
            aside: 0,
            waits: true,
            loans: Arc::default(),
            closed: AtomicBool::new(false),
        }
    }

    /// An account with `len` bytes set aside, for one loan or permit at a time, which never waits: a sink may not wait
    /// for bytes that are freed only after it has taken a weight.
    pub(super) fn set_aside(bytes: &'a InFlight, len: u64) -> Self {
        let mut state = bytes.lock();
        state.aside += len;
        state.take(len);
        drop(state);
        let mut account = Self::new(bytes);
        (account.aside, account.waits) = (len, false);
        account
    }

    /// Waits for `len` bytes. A loan larger than the whole bound is granted when nothing else is in
    /// flight. `None` once the account is closed.
    pub(super) fn borrow(&self, len: usize) -> Option<Loan<'a>> {
        let mut state = self.wait(len as u64, LOANS_MAX)?;
        let others = state.used - self.aside;
        let fits = |buffer: &Vec<u8>| {
            let used = others + buffer.len() as u64;
            buffer.len() >= len && (others == 0 || used <= self.bytes.max)
        };
        let buffer = match state.spare.iter().position(fits) {
            Some(fits) => state.spare.swap_remove(fits),
            None => {
                state.spare.clear();
                vec![0; len]
            }
        };
        let counted = (buffer.len() as u64).saturating_sub(self.aside);
        state.take(counted);
        self.loans.fetch_add(1, Ordering::Relaxed);
        Some(Loan {
            bytes: self.bytes,
            buffer,
            len,
            counted,
            loans: Arc::clone(&self.loans),
        })
    }

    /// Waits for `len` bytes as [`borrow`](Self::borrow) does, and leaves the buffer to the caller.
    pub(super) fn permit(&self, len: usize) -> Option<Permit<'a>> {
        let mut state = self.wait(len as u64, usize::MAX)?;
        let len = (len as u64).saturating_sub(self.aside);
        state.take(len);
        let bytes = self.bytes;
        Some(Permit { bytes, len })
    }

    /// Waits until `len` bytes are free, or only bytes that are set aside are in flight, and fewer than `loans` buffers are
    /// on loan; `None` once closed.
    fn wait(&self, len: u64, loans: usize) -> Option<MutexGuard<'a, FlightState>> {
        let bytes = self.bytes;
        let mut state = bytes.lock();
        while !self.is_closed()
            && self.waits
            && state.used > state.aside
            && (state.used + len > bytes.max || self.loans.load(Ordering::Relaxed) >= loans)
        {
            state = bytes
                .freed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        (!self.is_closed()).then_some(state)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Closes the account once the guard is dropped.
    pub(super) fn close_on_drop(&self) -> impl Drop + '_ {
        struct Closing<'c, 'a>(&'c Account<'a>);
        impl Drop for Closing<'_, '_> {
            fn drop(&mut self) {
                // Under the lock, so that no thread is between its check and its wait.
                let state = self.0.bytes.lock();
                self.0.closed.store(true, Ordering::Relaxed);
                drop(state);
                self.0.bytes.freed.notify_all();
            }
        }
        Closing(self)
    }
}

/// Buffers are spared for the next tile, not for the next load.
impl Drop for Account<'_> {
    fn drop(&mut self) {
        let mut state = self.bytes.lock();
        state.aside -= self.aside;
        state.used -= self.aside;
        if state.used == 0 {
            state.spare.clear();
        }
        drop(state);
        self.bytes.freed.notify_all();
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
        state.used -= self.counted;
        self.loans.fetch_sub(1, Ordering::Relaxed);
        let spare: u64 = state.spare.iter().map(|buffer| buffer.len() as u64).sum();
        if state.used + spare + self.buffer.len() as u64 <= self.bytes.max {
            state.spare.push(core::mem::take(&mut self.buffer));
        }
        drop(state);
        self.bytes.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would catch a reader that fills fresh memory far ahead of the converters: two loads may each hold this number.
    #[test]
    fn an_account_has_a_bounded_number_of_buffers() {
        let bytes = InFlight::new(1 << 20);
        let (account, other) = (Account::new(&bytes), Account::new(&bytes));
        let mut loans: Vec<_> = (0..LOANS_MAX).map(|_| account.borrow(1)).collect();
        assert!(other.borrow(1).is_some(), "another load is not bounded");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| account.borrow(1).is_some());
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert!(!waiting.is_finished());
            loans.pop();
            assert!(waiting.join().expect("no panic"));
        });
    }

    /// Would catch a bound that grants more than it has, or never wakes a waiter of its own or another run.
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

    /// Would catch a sink that waits for the reader while the reader waits for the sink, and a reader that takes bytes that
    /// are set aside.
    #[test]
    fn bytes_that_are_set_aside_are_there_at_once() {
        let bytes = InFlight::new(100);
        let reader = Account::new(&bytes);
        let sink = Account::set_aside(&bytes, 20);
        let first = reader.borrow(80);
        assert_eq!(sink.borrow(20).map(|loan| loan.bytes().len()), Some(20));
        assert_eq!(bytes.peak(), 100);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| reader.borrow(10).is_some());
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert!(
                !waiting.is_finished(),
                "10 of the 20 set aside were granted"
            );
            drop(first);
            assert!(waiting.join().expect("no panic"));
        });
        // Only the bytes that are set aside are in flight.
        assert!(reader.borrow(100).is_some());
        drop(sink);
        assert_eq!(bytes.lock().used, 0);
    }

    /// Would catch spare buffers that are not counted: memory would reach twice the bound.
    #[test]
    fn buffers_in_use_and_to_spare_never_exceed_the_bound() {
        let bytes = InFlight::new(100);
        let account = Account::new(&bytes);
        for len in [10, 20, 30, 40, 50, 60, 100, 5, 95] {
            drop(account.borrow(len));
            let state = bytes.lock();
            let spare: usize = state.spare.iter().map(Vec::len).sum();
            assert!(spare <= 100, "{spare} to spare after a loan of {len}");
        }
        drop(account);
        assert!(bytes.lock().spare.is_empty(), "spared after the last run");
    }
}
