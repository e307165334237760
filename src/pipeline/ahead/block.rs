//! The memory of blocks: a number of bytes, given out in buffers that are used again.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::source::{Bytes, SourceError};

/// The state of a block.
#[derive(Debug)]
pub(super) enum BlockState {
    /// Not fetched yet.
    Waiting,
    Fetching,
    Ready(Bytes),
    Failed(SourceError),
    /// Read, or not wanted any more.
    Gone,
}

/// Bytes that blocks may take together.
#[derive(Debug)]
pub(super) struct BlockRoom {
    max: u64,
    state: Mutex<BlockRoomState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct BlockRoomState {
    used: u64,
    spare: Vec<Vec<u8>>,
    /// How often anything changed.
    changes: u64,
}

/// A part of the room.
#[derive(Debug)]
pub(super) struct BlockBuffer {
    bytes: Vec<u8>,
    len: usize,
    room: Arc<BlockRoom>,
}

impl BlockRoom {
    pub(super) fn new(max: u64) -> Self {
        Self {
            max,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// `len` bytes, where there is room for them or nothing else has any; in any case if the need is `urgent`. Otherwise how often
    /// anything has changed, to [wait](Self::wait) for the next time.
    pub(super) fn buffer(self: &Arc<Self>, len: usize, urgent: bool) -> Result<BlockBuffer, u64> {
        let mut state = self.lock();
        if !urgent && state.used > 0 && state.used + len as u64 > self.max {
            return Err(state.changes);
        }
        state.used += len as u64;
        let fits = state.spare.iter().position(|spare| spare.len() >= len);
        let bytes = match fits {
            Some(nth) => state.spare.swap_remove(nth),
            None => {
                state.spare.clear();
                vec![0; len]
            }
        };
        Ok(BlockBuffer {
            bytes,
            len,
            room: Arc::clone(self),
        })
    }

    /// Waits until something has changed since a buffer was refused.
    pub(super) fn wait(&self, changes: u64) {
        let mut state = self.lock();
        while state.changes == changes {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Wakes those that wait for room.
    pub(super) fn wake(&self) {
        self.lock().changes += 1;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, BlockRoomState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BlockBuffer {
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }

    /// The bytes, whose room is free when nobody has any of them.
    pub(super) fn shared(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for BlockBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Drop for BlockBuffer {
    fn drop(&mut self) {
        let mut state = self.room.lock();
        state.used -= self.len as u64;
        let spare: usize = state.spare.iter().map(Vec::len).sum();
        if state.used + (spare + self.bytes.len()) as u64 <= self.room.max {
            state.spare.push(core::mem::take(&mut self.bytes));
        }
        drop(state);
        self.room.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches memory beyond the bound, a buffer that is never free again, and one that is larger than the bound and never given.
    #[test]
    fn buffers_are_given_while_there_is_room() {
        let room = Arc::new(BlockRoom::new(100));
        let first = room.buffer(80, false).expect("there is room");
        let changes = room.buffer(30, false).expect_err("30 more than 20");
        let urgent = room.buffer(30, true).expect("whatever it takes");
        drop(urgent);
        room.wait(changes);
        let part = first.shared().slice(10..20);
        assert!(
            room.buffer(30, false).is_err(),
            "a part of the first is in use"
        );
        drop(part);
        drop(room.buffer(101, false).expect("alone, however large"));
        assert_eq!(room.lock().used, 0);
    }
}
