//! Reading ahead of the reader, from a source to which each read is a request: neighbouring tensors in large blocks, many under way
//! at once, within the budget of bytes.
//!
//! The reader sees an ordinary source. It finds the bytes of a block in memory, waits for a block that is being fetched, and has one
//! fetched at once that is not. A block is let go of when all of it was read, or when the last step that reads of it has been.

mod block;
mod schedule;

use core::ops::Range;
use std::{
    collections::HashMap,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use block::{BlockRoom, BlockState};
use schedule::ReadBlock;
pub(crate) use schedule::StepReads;

use crate::source::{
    self, Access, FetchTotals, Probe, Source, SourceError, SourceExt, SourceHints,
};

/// Blocks that the budget has room for at least, if they have to be small for it.
const BLOCKS_LEAST: u64 = 8;
/// Bytes of a block at least.
const BLOCK_LEAST: u64 = 64 << 10;

/// A source whose weights are fetched before they are read.
#[derive(Debug)]
pub(super) struct Ahead<'a> {
    source: &'a dyn Source,
    blocks: Vec<ReadBlock>,
    /// The blocks of each file by where they begin, and their numbers.
    places: HashMap<String, Vec<(u64, usize)>>,
    /// Bytes of the longest block.
    longest: u64,
    fetchers: usize,
    state: Mutex<AheadState>,
    changed: Condvar,
    room: Arc<BlockRoom>,
}

#[derive(Debug)]
struct AheadState {
    blocks: Vec<BlockState>,
    /// Bytes of each block that were not read yet.
    left: Vec<u64>,
    /// No block before this one waits to be fetched.
    next: usize,
    /// A block that the reader waits for.
    urgent: Option<usize>,
    /// Nothing more is fetched.
    closed: bool,
}

/// What the reader finds at a place.
enum FoundBlock {
    Bytes(source::Bytes, usize),
    /// No block has it; one that begins at this byte is the next.
    Nothing(u64),
}

impl<'a> Ahead<'a> {
    /// For a source that wants large reads, at most `bytes` bytes ahead.
    pub(super) fn new(source: &'a dyn Source, steps: &[StepReads<'_>], bytes: u64) -> Option<Self> {
        let wanted = source.request_bytes()?;
        let block = wanted.min(bytes / BLOCKS_LEAST).max(BLOCK_LEAST);
        let blocks = schedule::blocks(steps, block);
        let mut places: HashMap<String, Vec<(u64, usize)>> = HashMap::new();
        for (nth, ReadBlock { file, range, .. }) in blocks.iter().enumerate() {
            places
                .entry(file.clone())
                .or_default()
                .push((range.start, nth));
        }
        places
            .values_mut()
            .for_each(|places| places.sort_unstable());
        let state = AheadState {
            left: blocks.iter().map(|block| block.wanted).collect(),
            blocks: blocks.iter().map(|_| BlockState::Waiting).collect(),
            next: 0,
            urgent: None,
            closed: false,
        };
        let len = |block: &ReadBlock| block.range.end - block.range.start;
        Some(Self {
            source,
            longest: blocks.iter().map(len).max().unwrap_or(0),
            fetchers: source
                .concurrency()
                .min((bytes / block).max(1) as usize)
                .min(blocks.len()),
            blocks,
            places,
            state: Mutex::new(state),
            changed: Condvar::new(),
            room: Arc::new(BlockRoom::new(bytes)),
        })
    }

    /// Threads that [`fetch`](Self::fetch) at once.
    pub(super) fn fetchers(&self) -> usize {
        self.fetchers
    }

    /// Fetches one block after another, until there are no more.
    pub(super) fn fetch(&self) {
        while let Some((nth, mut buffer)) = self.take() {
            let ReadBlock { file, range, .. } = &self.blocks[nth];
            let read = self.source.read_at(file, range.start, buffer.bytes_mut());
            let mut state = self.lock();
            state.blocks[nth] = match read {
                Ok(()) if state.left[nth] > 0 => BlockState::Ready(buffer.shared()),
                Ok(()) => BlockState::Gone,
                Err(error) => {
                    // The reader gets there, and everything ends.
                    state.closed = true;
                    BlockState::Failed(error)
                }
            };
            drop(state);
            self.changed.notify_all();
        }
    }

    /// The next block to fetch, as soon as there is room for it.
    fn take(&self) -> Option<(usize, block::BlockBuffer)> {
        loop {
            let mut state = self.lock();
            let AheadState { blocks, next, .. } = &mut *state;
            while blocks
                .get(*next)
                .is_some_and(|block| !matches!(block, BlockState::Waiting))
            {
                *next += 1;
            }
            let urgent = state.urgent.take();
            let urgent = urgent.filter(|nth| matches!(state.blocks[*nth], BlockState::Waiting));
            let nth = urgent.unwrap_or(state.next);
            if state.closed || nth >= self.blocks.len() {
                return None;
            }
            let range = &self.blocks[nth].range;
            let len = (range.end - range.start) as usize;
            match self.room.buffer(len, urgent.is_some()) {
                Ok(buffer) => {
                    state.blocks[nth] = BlockState::Fetching;
                    return Some((nth, buffer));
                }
                Err(changes) => {
                    drop(state);
                    // Until a buffer is given back, or a reader is in need.
                    self.room.wait(changes);
                }
            }
        }
    }

    /// Lets go of what no later step reads.
    pub(super) fn finished(&self, step: usize) {
        let mut state = self.lock();
        for (nth, block) in self.blocks.iter().enumerate() {
            let over = block.last <= step;
            if over
                && matches!(
                    state.blocks[nth],
                    BlockState::Waiting | BlockState::Ready(_)
                )
            {
                state.blocks[nth] = BlockState::Gone;
            }
        }
    }

    /// Ends all fetching once the guard is dropped.
    pub(super) fn close_on_drop(&self) -> impl Drop + '_ {
        struct EndFetching<'e, 'a>(&'e Ahead<'a>);
        impl Drop for EndFetching<'_, '_> {
            fn drop(&mut self) {
                self.0.lock().closed = true;
                self.0.changed.notify_all();
                self.0.room.wake();
            }
        }
        EndFetching(self)
    }

    /// The bytes of a file from `offset` on, as far as one block has them.
    fn find(&self, file: &str, offset: u64) -> Result<FoundBlock, SourceError> {
        let Some(places) = self.places.get(file) else {
            return Ok(FoundBlock::Nothing(u64::MAX));
        };
        let after = places.partition_point(|(start, _)| *start <= offset);
        let next = places.get(after).map_or(u64::MAX, |(start, _)| *start);
        let mut state = self.lock();
        loop {
            let near = places[..after].iter().rev();
            let near = near.take_while(|(start, _)| start + self.longest > offset);
            let has = |nth: &usize| {
                let there = !matches!(state.blocks[*nth], BlockState::Gone);
                there && self.blocks[*nth].range.contains(&offset)
            };
            // The first of those that are fetched twice.
            let Some(nth) = near.map(|(_, nth)| *nth).filter(has).min() else {
                return Ok(FoundBlock::Nothing(next));
            };
            let closed = state.closed;
            match &mut state.blocks[nth] {
                BlockState::Ready(bytes) => return Ok(FoundBlock::Bytes(bytes.clone(), nth)),
                failed @ BlockState::Failed(_) => {
                    if let BlockState::Failed(error) = core::mem::replace(failed, BlockState::Gone)
                    {
                        return Err(error);
                    }
                }
                BlockState::Waiting if closed => {
                    state.blocks[nth] = BlockState::Gone;
                }
                BlockState::Waiting => {
                    state.urgent = Some(nth);
                    self.room.wake();
                    state = self.wait(state);
                }
                BlockState::Fetching => state = self.wait(state),
                BlockState::Gone => {}
            }
        }
    }

    /// Bytes `range` of a file, where one block has them.
    fn in_block(
        &self,
        file: &str,
        range: Range<u64>,
    ) -> Result<Option<source::Bytes>, SourceError> {
        let FoundBlock::Bytes(bytes, nth) = self.find(file, range.start)? else {
            return Ok(None);
        };
        let block = &self.blocks[nth].range;
        if range.end > block.end {
            return Ok(None);
        }
        self.was_read(nth, range.end - range.start);
        let first = (range.start - block.start) as usize;
        Ok(Some(
            bytes.slice(first..first + (range.end - range.start) as usize),
        ))
    }

    fn was_read(&self, nth: usize, bytes: u64) {
        let mut state = self.lock();
        state.left[nth] = state.left[nth].saturating_sub(bytes);
        if state.left[nth] == 0 && matches!(state.blocks[nth], BlockState::Ready(_)) {
            state.blocks[nth] = BlockState::Gone;
        }
    }

    fn wait<'s>(&self, state: MutexGuard<'s, AheadState>) -> MutexGuard<'s, AheadState> {
        self.changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, AheadState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source for Ahead<'_> {
    fn describe(&self) -> String {
        self.source.describe()
    }

    fn size(&self, file: &str) -> Result<u64, SourceError> {
        self.source.size(file)
    }

    fn read_at(&self, file: &str, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        let (mut offset, mut rest) = (offset, into);
        while !rest.is_empty() {
            let here = match self.find(file, offset)? {
                FoundBlock::Bytes(bytes, nth) => {
                    let first = (offset - self.blocks[nth].range.start) as usize;
                    let here = rest.len().min(bytes.len() - first);
                    rest[..here].copy_from_slice(&bytes[first..first + here]);
                    drop(bytes);
                    self.was_read(nth, here as u64);
                    here
                }
                FoundBlock::Nothing(next) => {
                    let here = (rest.len() as u64).min(next - offset) as usize;
                    self.source.read_at(file, offset, &mut rest[..here])?;
                    here
                }
            };
            offset += here as u64;
            rest = &mut rest[here..];
        }
        Ok(())
    }

    fn hints(&self) -> Option<&dyn SourceHints> {
        Some(self)
    }
}

impl SourceHints for Ahead<'_> {
    fn peek(&self, file: &str, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        self.source.peek(file, offset, into)
    }

    /// A block is not kept for as long as a model lives.
    fn share(
        &self,
        file: &str,
        offset: u64,
        len: usize,
        access: Access,
    ) -> Result<Option<source::Bytes>, SourceError> {
        match access {
            Access::Once => self.in_block(file, offset..offset + len as u64),
            Access::Often => Ok(None),
        }
    }

    fn version(&self) -> Result<Option<String>, SourceError> {
        self.source.version()
    }

    fn probe(&self) -> Option<Probe> {
        self.source.probe()
    }

    fn weights_file(&self) -> Option<&str> {
        self.source.weights_file()
    }

    fn list(&self) -> Result<Option<Vec<String>>, SourceError> {
        self.source.list()
    }

    fn unchanged(&self) -> Result<(), SourceError> {
        self.source.unchanged()
    }

    fn concurrency(&self) -> usize {
        self.source.concurrency()
    }

    fn request_bytes(&self) -> Option<u64> {
        self.source.request_bytes()
    }

    fn fetched(&self) -> Option<FetchTotals> {
        self.source.fetched()
    }
}
