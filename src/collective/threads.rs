//! Ranks that are threads of one process.

use core::time::Duration;
use std::{
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::{Collective, CollectiveError};

/// One of several threads of a process that compute together, as one for each device. Their values meet in host memory.
///
/// A thread that drops its rank while others wait for it has ended for them.
///
/// ```
/// use std::{thread, time::Duration};
/// use firebox::collective::{Collective, ThreadRanks};
///
/// let ranks = ThreadRanks::new(2, Duration::from_secs(10));
/// let sums = thread::scope(|scope| {
///     let threads: Vec<_> = ranks
///         .into_iter()
///         .map(|rank| {
///             scope.spawn(move || {
///                 let mut values = [1.0, rank.rank() as f32];
///                 rank.all_reduce_f32(&mut values).map(|()| values)
///             })
///         })
///         .collect();
///     let sums = threads.into_iter().map(|thread| thread.join().expect("no panic"));
///     sums.collect::<Result<Vec<_>, _>>()
/// })?;
/// assert_eq!(sums, [[2.0, 1.0]; 2]);
/// # Ok::<(), firebox::collective::CollectiveError>(())
/// ```
#[derive(Debug)]
pub struct ThreadRanks {
    rank: usize,
    size: usize,
    deadline: Duration,
    meeting: Arc<MeetingPlace>,
}

/// Where they meet.
#[derive(Debug)]
struct MeetingPlace {
    state: Mutex<MetState>,
    changed: Condvar,
}

#[derive(Debug)]
struct MetState {
    /// Meetings that are over.
    over: u64,
    /// What was brought to the present one.
    brought: Vec<Option<Vec<u8>>>,
    /// What was brought to the last one.
    last: Arc<Vec<Vec<u8>>>,
    /// Why there are no more.
    failed: Option<CollectiveError>,
    /// The ranks that have ended.
    ended: Vec<usize>,
}

impl ThreadRanks {
    /// `size` ranks, one for each thread. They wait `deadline` at most for each other in each operation.
    pub fn new(size: usize, deadline: Duration) -> Vec<Self> {
        let state = MetState {
            over: 0,
            brought: vec![None; size],
            last: Arc::default(),
            failed: None,
            ended: Vec::new(),
        };
        let meeting = Arc::new(MeetingPlace {
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let rank = |rank| Self {
            rank,
            size,
            deadline,
            meeting: Arc::clone(&meeting),
        };
        (0..size).map(rank).collect()
    }

    fn state(&self) -> MutexGuard<'_, MetState> {
        let state = self.meeting.state.lock();
        state.unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings some bytes. What all brought.
    fn meet(
        &self,
        operation: &'static str,
        mine: Vec<u8>,
        deadline: Duration,
    ) -> Result<Arc<Vec<Vec<u8>>>, CollectiveError> {
        let until = Instant::now() + deadline;
        let mut state = self.state();
        if let Some(failed) = &state.failed {
            return Err(failed.clone());
        }
        let present = state.over;
        state.brought[self.rank] = Some(mine);
        if state.brought.iter().all(Option::is_some) {
            let brought = mem::replace(&mut state.brought, vec![None; self.size]);
            state.last = Arc::new(brought.into_iter().flatten().collect());
            state.over += 1;
            self.meeting.changed.notify_all();
        }
        loop {
            if state.over > present {
                return Ok(Arc::clone(&state.last));
            }
            let absent = state.ended.iter();
            let mut absent = absent.filter(|peer| state.brought[**peer].is_none());
            let left = until.saturating_duration_since(Instant::now());
            let failed = match (&state.failed, absent.next()) {
                (Some(failed), _) => failed.clone(),
                (None, Some(&peer)) => CollectiveError::Gone {
                    peer,
                    rank: self.rank,
                    size: self.size,
                    operation,
                },
                (None, None) if left.is_zero() => CollectiveError::Late {
                    rank: self.rank,
                    size: self.size,
                    operation,
                    waited: deadline,
                },
                (None, None) => {
                    let waited = self.meeting.changed.wait_timeout(state, left);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                    continue;
                }
            };
            state.failed.get_or_insert_with(|| failed.clone());
            self.meeting.changed.notify_all();
            return Err(failed);
        }
    }
}

impl Collective for ThreadRanks {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn all_reduce_f32(&self, values: &mut [f32]) -> Result<(), CollectiveError> {
        let mine = bytemuck::cast_slice(values).to_vec();
        let all = self.meet("add up values", mine, self.deadline)?;
        let width = size_of::<f32>();
        let other = all.iter().position(|part| part.len() != all[0].len());
        if let Some(rank) = other {
            return Err(CollectiveError::Length {
                rank,
                found: all[rank].len() / width,
                peer: 0,
                wanted: all[0].len() / width,
            });
        }
        // In the order of the ranks, so that all have the same bits.
        values.fill(0.0);
        for part in all.iter() {
            let part = part.chunks_exact(width).map(bytemuck::pod_read_unaligned);
            for (value, more) in values.iter_mut().zip(part) {
                let more: f32 = more;
                *value += more;
            }
        }
        Ok(())
    }

    fn all_gather_bytes(&self, mine: &[u8]) -> Result<Vec<Vec<u8>>, CollectiveError> {
        let all = self.meet("gather bytes", mine.to_vec(), self.deadline)?;
        Ok(Arc::unwrap_or_clone(all))
    }

    fn broadcast_bytes(&self, bytes: Vec<u8>, from: usize) -> Result<Vec<u8>, CollectiveError> {
        let mine = if from == self.rank { bytes } else { Vec::new() };
        let all = self.meet("share bytes", mine, self.deadline)?;
        Ok(all[from].clone())
    }

    fn barrier(&self, deadline: Duration) -> Result<(), CollectiveError> {
        self.meet("wait for each other", Vec::new(), deadline)
            .map(|_| ())
    }

    fn fail(&self, reason: &str) {
        let failed = CollectiveError::Peer {
            peer: self.rank,
            reason: reason.to_owned(),
        };
        self.state().failed.get_or_insert(failed);
        self.meeting.changed.notify_all();
    }
}

impl Drop for ThreadRanks {
    fn drop(&mut self) {
        self.state().ended.push(self.rank);
        self.meeting.changed.notify_all();
    }
}
