//! Memory that a limit of the process may refuse.
//!
//! An allocation that fails ends the process. So the room is asked for before each large one, and what is large is allocated in
//! a way that may fail.

use super::error::PipelineError;
use crate::{plan::Step, target::memory};

/// Left to small allocations, which cannot fail politely: buffers, messages, scratch of the kernels.
const SLACK: u64 = 32 << 20;

/// Refuses `bytes` for `step` where the limits of this process leave less, or hardly more.
pub(super) fn ensure(step: &Step, bytes: u64) -> Result<(), PipelineError> {
    match memory::left() {
        Some(left) if left < bytes.saturating_add(SLACK) => Err(refused(step, bytes)),
        _ => Ok(()),
    }
}

/// The error of `bytes` that could not be had.
pub(super) fn refused(step: &Step, bytes: u64) -> PipelineError {
    PipelineError::Memory {
        tensor: step.slot.name.clone(),
        bytes,
        left: memory::left(),
    }
}
