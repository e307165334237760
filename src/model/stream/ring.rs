//! The weights that are on a device for a moment, and the weights on their way to it.

use std::{
    collections::HashMap,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak},
    thread::JoinHandle,
};

use burn::tensor::Device;

use super::{
    entry::{Placed, StreamedEntry},
    recent::Recent,
    stats::{StreamStats, StreamTally},
};

/// Brings weights to one device just in time. All streamed weights of a model share one; clones are the same ring.
///
/// The ring learns the order: after two weights it expects the one that followed these two the last time. So the
/// first pass waits for every weight, and the second finds the next weights there. The backward pass of training runs
/// the other way and is learned in the same manner. A wrong guess costs one upload.
#[derive(Debug, Clone)]
pub struct Ring(Arc<RingInner>);

/// Limits on the weights that are on the device.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RingLimits {
    /// Number of weights.
    pub(crate) ahead: usize,
    /// Bytes of these weights and of those in use. A weight that is needed now is fetched even beyond the limit.
    pub(crate) bytes: Option<u64>,
    /// Bytes of experts that stay on the device after they were used.
    pub(crate) experts: u64,
}

#[derive(Debug)]
struct RingInner {
    shared: Arc<RingShared>,
    thread: Option<JoinHandle<()>>,
    /// Rings of the same model on every device it was moved to.
    siblings: Arc<Mutex<Vec<Weak<RingInner>>>>,
}

#[derive(Debug)]
struct RingShared {
    device: Device,
    limits: RingLimits,
    tally: Arc<Mutex<StreamStats>>,
    experts: Mutex<Recent<Placed>>,
    /// Weights that somebody holds.
    held: Mutex<HashMap<u64, Weak<Fetched>>>,
    state: Mutex<RingState>,
    /// Something may be fetched.
    work: Condvar,
    /// Something was.
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct RingState {
    /// The last two weights that were taken, the later one second.
    last: [Option<u64>; 2],
    /// For each two weights, the weight that was taken after them.
    follows: HashMap<[Option<u64>; 2], Weak<StreamedEntry>>,
    ready: Vec<(u64, Fetched)>,
    fetching: Option<u64>,
    /// The thread failed to fetch a weight. The product that needs it tries again and reports the error.
    failed: bool,
    closed: bool,
}

/// A weight on the device. Its bytes count until it is dropped.
#[derive(Debug)]
pub(super) struct Fetched {
    placed: Placed,
    _held: HeldBytes,
}

impl Fetched {
    pub(super) fn placed(&self) -> &Placed {
        &self.placed
    }
}

#[derive(Debug)]
struct HeldBytes {
    tally: Arc<Mutex<StreamStats>>,
    bytes: u64,
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        let mut tally = lock(&self.tally);
        tally.weights -= 1;
        tally.bytes -= self.bytes;
    }
}

impl Ring {
    /// A ring for `device`. Where no thread can be started, every weight is fetched when it is needed.
    pub(crate) fn new(device: &Device, limits: RingLimits) -> Self {
        Self::beside(device, limits, Arc::default())
    }

    fn beside(
        device: &Device,
        limits: RingLimits,
        siblings: Arc<Mutex<Vec<Weak<RingInner>>>>,
    ) -> Self {
        let shared = Arc::new(RingShared {
            device: device.clone().without_autodiff(),
            limits,
            tally: Arc::new(Mutex::new(StreamStats {
                experts_bytes_max: limits.experts,
                ..StreamStats::default()
            })),
            experts: Mutex::new(Recent::new(limits.experts)),
            held: Mutex::default(),
            state: Mutex::default(),
            work: Condvar::new(),
            arrived: Condvar::new(),
        });
        let thread = (limits.ahead > 0).then(|| {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name("firebox-stream".to_owned())
                .spawn(move || shared.fetch_ahead())
                .ok()
        });
        let inner = Arc::new(RingInner {
            shared,
            thread: thread.flatten(),
            siblings,
        });
        lock(&inner.siblings).push(Arc::downgrade(&inner));
        Self(inner)
    }

    /// The ring of the same model on `device`.
    pub(super) fn on(&self, device: &Device) -> Self {
        let of = |ring: &Arc<RingInner>| ring.shared.device == *device;
        if of(&self.0) {
            return self.clone();
        }
        let mut siblings = lock(&self.0.siblings);
        siblings.retain(|ring| ring.strong_count() > 0);
        let known = siblings.iter().filter_map(Weak::upgrade).find(of);
        drop(siblings);
        known.map_or_else(
            || Self::beside(device, self.0.shared.limits, Arc::clone(&self.0.siblings)),
            Self,
        )
    }

    /// The counts so far.
    pub fn stats(&self) -> StreamStats {
        self.tally().stats()
    }

    /// The counts, to be asked while the model is in use and after that.
    pub fn tally(&self) -> StreamTally {
        StreamTally(vec![Arc::clone(&self.0.shared.tally)])
    }

    /// Counts rows that were looked up elsewhere and brought to the device.
    pub(super) fn count(&self, bytes: u64) {
        lock(&self.0.shared.tally).bytes_moved += bytes;
    }

    /// Keeps a weight on the device until what is returned is dropped, however often it is lent meanwhile.
    ///
    /// # Panics
    ///
    /// As [`lend`](Self::lend).
    pub(super) fn hold(&self, entry: &StreamedEntry) -> Arc<Fetched> {
        if let Some(held) = self.held(entry) {
            return held;
        }
        let shared = &self.0.shared;
        let bytes = shared.hold(entry);
        let placed = entry.place(&shared.device).unwrap_or_else(|error| {
            panic!("{}: a streamed weight cannot be read: {error}", entry.name)
        });
        let fetched = Arc::new(Fetched {
            placed,
            _held: bytes,
        });
        let mut held = lock(&shared.held);
        held.retain(|_, fetched| fetched.strong_count() > 0);
        held.insert(entry.id, Arc::downgrade(&fetched));
        fetched
    }

    /// A weight that somebody holds.
    pub(super) fn held(&self, entry: &StreamedEntry) -> Option<Arc<Fetched>> {
        lock(&self.0.shared.held).get(&entry.id)?.upgrade()
    }

    /// Lends a weight on the device for as long as `product` takes.
    ///
    /// # Panics
    ///
    /// When it cannot be read from its file, or the device fails. A forward pass has no other way to report that.
    pub(super) fn lend<R>(
        &self,
        entry: &Arc<StreamedEntry>,
        product: impl FnOnce(&Placed) -> R,
    ) -> R {
        let shared = &self.0.shared;
        if let Some(held) = self.held(entry) {
            return product(held.placed());
        }
        let unreadable =
            |error| -> ! { panic!("{}: a streamed weight cannot be read: {error}", entry.name) };
        if entry.is_expert {
            let expert = shared.take_expert(entry);
            return product(&expert.unwrap_or_else(|error| unreadable(error)));
        }
        let fetched = shared.take(entry);
        let fetched = fetched.unwrap_or_else(|error| unreadable(error));
        let result = product(&fetched.placed);
        drop(fetched);
        // The next weight may wait for its bytes. Under the lock, so that no thread that is about to wait
        // misses it.
        let state = shared.state();
        shared.work.notify_one();
        drop(state);
        result
    }
}

impl StreamTally {
    /// Of these rings, each once; `None` where there is none.
    pub(crate) fn of<'r>(rings: impl Iterator<Item = &'r Ring>) -> Option<Self> {
        let mut tallies: Vec<Arc<Mutex<StreamStats>>> = Vec::new();
        for ring in rings {
            let tally = &ring.0.shared.tally;
            if !tallies.iter().any(|known| Arc::ptr_eq(known, tally)) {
                tallies.push(Arc::clone(tally));
            }
        }
        (!tallies.is_empty()).then_some(Self(tallies))
    }
}

impl Drop for RingInner {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.closed = true;
        state.ready.clear();
        drop(state);
        self.shared.work.notify_all();
        if let Some(thread) = self.thread.take() {
            // The thread catches its own panics.
            let _ = thread.join();
        }
    }
}

impl RingShared {
    fn state(&self) -> MutexGuard<'_, RingState> {
        lock(&self.state)
    }

    fn take(&self, entry: &Arc<StreamedEntry>) -> io::Result<Fetched> {
        let mut state = self.state();
        let ahead = self.limits.ahead;
        let mut known = state.expected(ahead).into_iter();
        let known = known.any(|next| next.id == entry.id);
        state.taken(entry);
        state.failed = false;
        let expected = state.expected(ahead);
        let wanted = |id: u64| id == entry.id || expected.iter().any(|next| next.id == id);
        state.ready.retain(|(id, _)| wanted(*id));
        let mut waited = false;
        loop {
            if let Some(found) = state.ready.iter().position(|(id, _)| *id == entry.id) {
                let (_, fetched) = state.ready.remove(found);
                let mut tally = lock(&self.tally);
                *(if waited {
                    &mut tally.waited
                } else {
                    &mut tally.ahead
                }) += 1;
                self.work.notify_one();
                return Ok(fetched);
            }
            if state.fetching != Some(entry.id) {
                break;
            }
            waited = true;
            state = self
                .arrived
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        // A weight that is needed now has priority over weights that are fetched ahead.
        while !self.has_room(entry) && state.ready.pop().is_some() {}
        let held = self.hold(entry);
        let mut tally = lock(&self.tally);
        *(if known {
            &mut tally.waited
        } else {
            &mut tally.missed
        }) += 1;
        drop(tally);
        drop(state);
        let placed = entry.place(&self.device)?;
        Ok(Fetched {
            placed,
            _held: held,
        })
    }

    /// An expert that is on the device still, or comes there now and stays for later products.
    fn take_expert(&self, entry: &StreamedEntry) -> io::Result<Arc<Placed>> {
        let found = lock(&self.experts).find(entry.id);
        let mut tally = lock(&self.tally);
        *(if found.is_some() {
            &mut tally.experts_found
        } else {
            &mut tally.experts_fetched
        }) += 1;
        drop(tally);
        if let Some(found) = found {
            return Ok(found);
        }
        // Before it comes, so that there is room for it.
        lock(&self.experts).make_room(entry.bytes());
        lock(&self.tally).bytes_moved += entry.bytes();
        let placed = Arc::new(entry.place(&self.device)?);
        let mut experts = lock(&self.experts);
        experts.hold(entry.id, &placed, entry.bytes());
        let mut tally = lock(&self.tally);
        tally.experts_bytes = experts.bytes();
        tally.experts_bytes_peak = tally.experts_bytes_peak.max(tally.experts_bytes);
        Ok(placed)
    }

    fn has_room(&self, entry: &StreamedEntry) -> bool {
        let bytes = lock(&self.tally).bytes + entry.bytes();
        self.limits.bytes.is_none_or(|max| bytes <= max)
    }

    /// Counts a weight before it is there.
    fn hold(&self, entry: &StreamedEntry) -> HeldBytes {
        let bytes = entry.bytes();
        let mut tally = lock(&self.tally);
        tally.bytes_moved += bytes;
        tally.weights += 1;
        tally.bytes += bytes;
        tally.weights_peak = tally.weights_peak.max(tally.weights);
        tally.bytes_peak = tally.bytes_peak.max(tally.bytes);
        HeldBytes {
            tally: Arc::clone(&self.tally),
            bytes,
        }
    }

    /// The thread's work, until the ring is dropped.
    fn fetch_ahead(&self) {
        let mut state = self.state();
        while !state.closed {
            let Some(entry) = self.next(&state) else {
                state = self
                    .work
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.fetching = Some(entry.id);
            let held = self.hold(&entry);
            drop(state);
            // A device that fails makes Burn panic.
            let placed = catch_unwind(AssertUnwindSafe(|| entry.place(&self.device)));
            state = self.state();
            state.fetching = None;
            match placed {
                Ok(Ok(placed)) => {
                    // The pass may have gone another way meanwhile.
                    let expected = state.expected(self.limits.ahead);
                    let waits = state.last[1] == Some(entry.id);
                    if waits || expected.iter().any(|next| next.id == entry.id) {
                        let fetched = Fetched {
                            placed,
                            _held: held,
                        };
                        state.ready.push((entry.id, fetched));
                    }
                }
                Ok(Err(_)) | Err(_) => state.failed = true,
            }
            self.arrived.notify_all();
        }
    }

    /// The weight to fetch next, if one is expected and fits.
    fn next(&self, state: &RingState) -> Option<Arc<StreamedEntry>> {
        if state.failed || state.ready.len() >= self.limits.ahead {
            return None;
        }
        let is_ready =
            |entry: &Arc<StreamedEntry>| state.ready.iter().any(|(id, _)| *id == entry.id);
        let mut expected = state.expected(self.limits.ahead).into_iter();
        let next = expected.find(|entry| !is_ready(entry))?;
        self.has_room(&next).then_some(next)
    }
}

impl RingState {
    /// Remembers that `entry` followed the last two.
    fn taken(&mut self, entry: &Arc<StreamedEntry>) {
        if self.last[1].is_some() {
            self.follows.insert(self.last, Arc::downgrade(entry));
        }
        self.last = [self.last[1], Some(entry.id)];
    }

    /// The next weights, as far as they are known.
    fn expected(&self, ahead: usize) -> Vec<Arc<StreamedEntry>> {
        let (mut last, mut expected) = (self.last, Vec::<Arc<StreamedEntry>>::new());
        for _ in 0..ahead {
            let Some(next) = self.follows.get(&last).and_then(Weak::upgrade) else {
                break;
            };
            last = [last[1], Some(next.id)];
            if !expected.iter().any(|entry| entry.id == next.id) {
                expected.push(next);
            }
        }
        expected
    }
}

/// A panic elsewhere never leaves these values half-written.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
