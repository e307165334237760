//! Operations of MPI that were begun.

use core::{
    ffi::{c_char, c_int},
    time::Duration,
};
use std::{thread, time::Instant};

use mpi::ffi;

use crate::collective::CollectiveError;

/// An operation that was begun.
pub(super) struct MpiRequest(ffi::MPI_Request);

impl MpiRequest {
    /// Before an operation is begun.
    pub(super) fn empty() -> Self {
        // SAFETY: a constant of MPI's.
        Self(unsafe { ffi::RSMPI_REQUEST_NULL })
    }

    /// Where an operation that begins leaves its request.
    pub(super) fn place(&mut self) -> *mut ffi::MPI_Request {
        &raw mut self.0
    }

    /// Whether the operation is over. Asking is what moves it on.
    pub(super) fn is_over(&mut self, operation: &'static str) -> Result<bool, CollectiveError> {
        let mut over: c_int = 0;
        // SAFETY: a request of MPI's, which sets it to none when the operation is over.
        let asked = unsafe { ffi::MPI_Test(self.place(), &mut over, ffi::RSMPI_STATUS_IGNORE) };
        checked(operation, asked)?;
        Ok(over != 0)
    }
}

/// The error of a call.
pub(super) fn checked(operation: &'static str, code: c_int) -> Result<(), CollectiveError> {
    if code == ffi::MPI_SUCCESS as c_int {
        return Ok(());
    }
    let mut text = [0_u8; ffi::MPI_MAX_ERROR_STRING as usize];
    let mut length: c_int = 0;
    // SAFETY: the buffer has the length that MPI's header promises to be enough.
    unsafe { ffi::MPI_Error_string(code, text.as_mut_ptr().cast::<c_char>(), &mut length) };
    let text = &text[..(length.max(0) as usize).min(text.len())];
    Err(CollectiveError::Mpi {
        operation,
        reason: String::from_utf8_lossy(text).into_owned(),
    })
}

/// Between two questions: none at first, when an answer is near; then up to a millisecond, so that a rank that waits takes no
/// processor from one that computes.
pub(super) struct Pause {
    begun: Instant,
    looked: Instant,
}

/// As long as most answers take.
const NEAR: Duration = Duration::from_micros(200);
const LONGEST: Duration = Duration::from_millis(1);
/// Between two looks at the other ranks.
const LOOK: Duration = Duration::from_millis(20);

impl Pause {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            begun: now,
            looked: now,
        }
    }

    /// Whether it is time for a look at the other ranks.
    pub(super) fn is_long(&mut self) -> bool {
        let is_long = self.looked.elapsed() >= LOOK;
        if is_long {
            self.looked = Instant::now();
        }
        is_long
    }

    pub(super) fn rest(&self) {
        let waited = self.begun.elapsed();
        match waited < NEAR {
            true => thread::yield_now(),
            false => thread::sleep((waited / 8).min(LONGEST)),
        }
    }
}
