//! Bounds on a template, so that none can hold up or end the process that runs it.
//!
//! Every step and every byte is paid for *before* the work is done. Values are trees of a bounded size and depth, so that
//! printing, comparing and dropping them is bounded too.

use std::cell::Cell;

use super::error::{Result, fail};

/// Bytes of the largest template; those in use have at most 40,000.
pub(super) const SOURCE_BYTES_MAX: usize = 1 << 18;

/// How deep brackets and blocks of a template may lie in each other.
pub(super) const BRACKETS_MAX: usize = 60;

/// How deep lists and dictionaries may lie in each other. JSON files are read to a depth of 128.
pub(super) const NESTING_MAX: usize = 160;

/// How deep calls may lie in each other, counted in blocks and expressions. The stack of a thread (2 MiB) suffices.
const CALLS_MAX: usize = 320;

/// Steps of a template that is given no text: a second without optimisation.
const STEPS: u64 = 400_000;

/// More steps for each byte of the conversation. Templates in use take about ten.
const STEPS_A_BYTE: u64 = 64;

/// Bytes of the largest value that a template makes of no text.
const BYTES: u64 = 4 << 20;

/// More bytes for each byte of the conversation.
const BYTES_A_BYTE: u64 = 8;

/// Bytes that cost as much as a step.
const BYTES_A_STEP: u64 = 16;

/// What a template may still use.
#[derive(Debug)]
pub(super) struct Meter {
    steps: Cell<u64>,
    calls: Cell<usize>,
    bytes: u64,
}

impl Meter {
    /// The bounds for a conversation of so many bytes.
    pub(super) fn new(input: u64) -> Self {
        Self {
            steps: Cell::new(STEPS.saturating_add(input.saturating_mul(STEPS_A_BYTE))),
            calls: Cell::new(0),
            bytes: BYTES.saturating_add(input.saturating_mul(BYTES_A_BYTE)),
        }
    }

    /// Pays for some steps.
    pub(super) fn steps(&self, count: u64) -> Result<()> {
        match self.steps.get().checked_sub(count) {
            Some(left) => {
                self.steps.set(left);
                Ok(())
            }
            None => {
                self.steps.set(0);
                fail!("the template takes too many steps for this conversation: does it end?")
            }
        }
    }

    /// Pays for a text or a list of so many bytes that is about to be made.
    pub(super) fn bytes(&self, count: u64) -> Result<()> {
        self.size(count)?;
        self.steps(count / BYTES_A_STEP)
    }

    /// Refuses a value that has so many bytes, with all values in it.
    pub(super) fn size(&self, bytes: u64) -> Result<()> {
        if bytes > self.bytes {
            fail!(
                "the template makes a value of {bytes} bytes, and at most {} are allowed for this conversation",
                self.bytes
            );
        }
        Ok(())
    }

    /// Counts calls, blocks and expressions inside of the last; [`Meter::leave`] ends them.
    pub(super) fn enter(&self, count: usize) -> Result<()> {
        self.steps(1)?;
        if self.calls.get() + count > CALLS_MAX {
            fail!(
                "the template calls itself too often: at most {CALLS_MAX} blocks and expressions may lie in each other"
            );
        }
        self.calls.set(self.calls.get() + count);
        Ok(())
    }

    /// The end of what [`Meter::enter`] began.
    pub(super) fn leave(&self, count: usize) {
        self.calls.set(self.calls.get() - count);
    }
}
