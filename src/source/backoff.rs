//! Longer and longer waits between tries.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// Waits between tries, each about twice as long as the one before, up to a number of tries.
///
/// Each wait is between half and all of its length, by chance: clients that failed together do not come back together.
#[derive(Debug, Clone)]
pub(super) struct Backoff {
    tries: usize,
    left: usize,
    first: Duration,
    wait: Duration,
}

/// The longest wait.
const WAIT_MAX: Duration = Duration::from_secs(10);

impl Backoff {
    /// As many tries after the first one, and the first wait.
    pub(super) fn new(tries: usize, first: Duration) -> Self {
        Self {
            tries,
            left: tries,
            first,
            wait: first,
        }
    }

    /// Waits, if there is a try left.
    pub(super) fn again(&mut self) -> bool {
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        std::thread::sleep(self.wait.mul_f64(0.5 + chance() / 2.0));
        self.wait = (self.wait * 2).min(WAIT_MAX);
        true
    }

    /// Begins anew, after a try that got somewhere.
    #[cfg(feature = "remote")]
    pub(super) fn reset(&mut self) {
        (self.left, self.wait) = (self.tries, self.first);
    }
}

/// A number from 0 to 1. The hasher of the standard library has new keys each time.
fn chance() -> f64 {
    let random = RandomState::new().build_hasher().finish();
    random as f64 / u64::MAX as f64
}
