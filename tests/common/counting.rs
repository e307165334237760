//! An allocator that counts.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
};

pub(crate) struct Counting {
    live: AtomicUsize,
    peak: AtomicUsize,
}

#[global_allocator]
pub(crate) static COUNTING: Counting = Counting {
    live: AtomicUsize::new(0),
    peak: AtomicUsize::new(0),
};

impl Counting {
    /// Bytes that are allocated.
    pub(crate) fn live(&self) -> u64 {
        self.live.load(Ordering::SeqCst) as u64
    }

    /// What `run` gives, and the most that was allocated meanwhile, beside what was before.
    pub(crate) fn peak<R>(&self, run: impl FnOnce() -> R) -> (R, u64) {
        let before = self.live();
        let (result, most) = self.most(run);
        (result, most - before)
    }

    /// What `run` gives, and the most that was allocated meanwhile, all together.
    pub(crate) fn most<R>(&self, run: impl FnOnce() -> R) -> (R, u64) {
        self.peak
            .store(self.live.load(Ordering::SeqCst), Ordering::SeqCst);
        let result = run();
        (result, self.peak.load(Ordering::SeqCst) as u64)
    }

    fn grow(&self, bytes: usize) {
        let live = self.live.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(live, Ordering::Relaxed);
    }
}

// SAFETY: the system allocator does the work; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.grow(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.grow(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        self.live.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}
