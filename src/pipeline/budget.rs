//! A budget of bytes, enforced: whoever wants to read waits until enough has been given back.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Bytes that may be in flight at once, and the buffers they are in.
///
/// Buffers are kept and used again, since fresh memory costs a page fault for every 4 KiB. Kept
/// buffers count: those in use and those kept never exceed the budget together.
#[derive(Debug)]
pub(super) struct Budget {
    max: u64,
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    used: u64,
    kept: Vec<Vec<u8>>,
    closed: bool,
}

/// A buffer on loan. Dropping it gives its bytes back.
#[derive(Debug)]
pub(super) struct Loan<'a> {
    budget: &'a Budget,
    buffer: Vec<u8>,
    len: usize,
}

/// Bytes in a buffer of somebody else's that count as long as this lives.
#[derive(Debug)]
pub(super) struct Permit<'a> {
    budget: &'a Budget,
    len: u64,
}

impl Budget {
    pub(super) fn new(max: u64) -> Self {
        Self {
            max,
            state: Mutex::default(),
            freed: Condvar::new(),
        }
    }

    pub(super) fn max(&self) -> u64 {
        self.max
    }

    /// Waits for `len` bytes. A loan larger than the whole budget is granted when nothing else is in
    /// flight. `None` once the budget is closed.
    pub(super) fn borrow(&self, len: usize) -> Option<Loan<'_>> {
        let mut state = self.wait(len as u64)?;
        let fits = |buffer: &Vec<u8>| {
            let used = state.used + buffer.len() as u64;
            buffer.len() >= len && (state.used == 0 || used <= self.max)
        };
        let buffer = match state.kept.iter().position(fits) {
            Some(fits) => state.kept.swap_remove(fits),
            None => {
                state.kept.clear();
                vec![0; len]
            }
        };
        state.used += buffer.len() as u64;
        Some(Loan {
            budget: self,
            buffer,
            len,
        })
    }

    /// Waits for `len` bytes as [`borrow`](Self::borrow) does, and leaves the buffer to the caller.
    pub(super) fn permit(&self, len: usize) -> Option<Permit<'_>> {
        let len = len as u64;
        let mut state = self.wait(len)?;
        state.used += len;
        Some(Permit { budget: self, len })
    }

    /// Until `len` bytes are free, or nothing is in flight; `None` once closed.
    fn wait(&self, len: u64) -> Option<MutexGuard<'_, State>> {
        let mut state = self.lock();
        while !state.closed && state.used > 0 && state.used + len > self.max {
            state = self
                .freed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        (!state.closed).then_some(state)
    }

    /// Lets nobody borrow or wait any more once the guard is dropped.
    pub(super) fn close_on_drop(&self) -> impl Drop + '_ {
        struct Closing<'a>(&'a Budget);
        impl Drop for Closing<'_> {
            fn drop(&mut self) {
                self.0.lock().closed = true;
                self.0.freed.notify_all();
            }
        }
        Closing(self)
    }

    /// A panic elsewhere leaves the counters true: they are changed after everything that can fail.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
        self.budget.lock().used -= self.len;
        self.budget.freed.notify_all();
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        let mut state = self.budget.lock();
        state.used -= self.buffer.len() as u64;
        let kept: u64 = state.kept.iter().map(|buffer| buffer.len() as u64).sum();
        if state.used + kept + self.buffer.len() as u64 <= self.budget.max {
            state.kept.push(core::mem::take(&mut self.buffer));
        }
        drop(state);
        self.budget.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would catch a budget that grants what it does not have, or never wakes a waiter.
    #[test]
    fn a_borrower_waits_until_enough_is_given_back() {
        let budget = Budget::new(100);
        let first = budget.borrow(80).expect("open");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| budget.borrow(30).map(|loan| loan.bytes().len()));
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert!(
                !waiting.is_finished(),
                "30 more than the 20 left were granted"
            );
            drop(first);
            assert_eq!(waiting.join().expect("no panic"), Some(30));
        });
    }

    /// Would catch a deadlock on a tile larger than the budget.
    #[test]
    fn a_loan_larger_than_the_budget_passes_alone() {
        let budget = Budget::new(10);
        assert_eq!(budget.borrow(25).map(|loan| loan.bytes().len()), Some(25));
    }

    /// Would catch a reader that waits for ever after the converter has failed.
    #[test]
    fn closing_wakes_everybody() {
        let budget = Budget::new(10);
        let held = budget.borrow(10);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| budget.borrow(5).is_none());
            drop(budget.close_on_drop());
            assert!(waiting.join().expect("no panic"));
        });
        drop(held);
    }

    /// Would catch kept buffers that are not counted: memory would reach twice the budget.
    #[test]
    fn buffers_in_use_and_kept_never_exceed_the_budget() {
        let budget = Budget::new(100);
        for len in [10, 20, 30, 40, 50, 60, 100, 5, 95] {
            drop(budget.borrow(len));
            let state = budget.lock();
            let kept: usize = state.kept.iter().map(Vec::len).sum();
            assert!(kept <= 100, "{kept} kept after a loan of {len}");
        }
    }
}
