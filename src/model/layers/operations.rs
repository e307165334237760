//! Passes that go through operations of Burn although no graph sees them.

use std::cell::Cell;

thread_local! {
    static ONLY: Cell<bool> = const { Cell::new(false) };
}

/// Sets a value back.
struct Before(bool);

impl Drop for Before {
    fn drop(&mut self) {
        ONLY.set(self.0);
    }
}

/// What `run` gives, computed on this thread by the operations that a graph would see: a second pass inside of one has the same
/// bits.
pub(crate) fn in_operations<R>(run: impl FnOnce() -> R) -> R {
    let _before = Before(ONLY.replace(true));
    run()
}

/// Whether this pass goes through operations of Burn only.
#[cfg(feature = "cpu")]
pub(super) fn only() -> bool {
    ONLY.get()
}
