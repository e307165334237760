//! Ranks that are processes, which talk by MPI.
//!
//! MPI itself waits for ever, and by default ends the process on an error. So every operation is begun, and then asked for until it is
//! over; meanwhile this rank looks whether another one failed, ended or is late.

mod request;
mod watch;

use core::{ffi::c_int, fmt, mem, time::Duration};
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use mpi::{
    Threading,
    environment::Universe,
    ffi::{self, MPI_Comm},
    traits::{AsRaw, Communicator},
};

use super::{Collective, CollectiveError};
use request::{MpiRequest, checked};
use watch::PeerWatch;

/// The processes of one computation, as `mpirun` or `srun` started them.
///
/// MPI can be started once in a process. A rank that is done calls [`finish`](Self::finish), which ends it; one that returns with an error
/// calls [`fail`](Collective::fail) first.
///
/// # A rank that dies
///
/// What Open MPI 4 does: its operations wait for ever, and `mpirun`, which sees the process end, sends `SIGTERM` to all others and
/// `SIGKILL` a second later (`--mca odls_base_sigkill_timeout`). Here the ranks of the same machine look every 20 ms whether the process of
/// each other one is still there ([`CollectiveError::Gone`]); those of other machines get [`CollectiveError::Late`] after the deadline, if
/// the launcher leaves them the time.
pub struct MpiRanks {
    rank: usize,
    size: usize,
    deadline: Duration,
    state: Mutex<MpiState>,
}

/// What operations use, one at a time.
struct MpiState {
    /// For operations.
    all: MpiComm,
    /// For what ranks say when they fail, and for the end.
    aside: MpiComm,
    peers: PeerWatch,
    failed: Option<CollectiveError>,
    /// Ends MPI when it is dropped; it is not where the end would wait for a rank that failed.
    universe: mem::ManuallyDrop<Option<Universe>>,
}

/// A communicator.
#[derive(Clone, Copy)]
struct MpiComm(MPI_Comm);

// SAFETY: MPI was started such that any thread may call it, one at a time; the lock around the state sees to that.
unsafe impl Send for MpiComm {}

/// Bytes that one call moves at most: counts of MPI are `int`s.
const PIECE: usize = 1 << 28;

impl MpiRanks {
    /// Starts MPI. Operations wait `deadline` at most for other ranks.
    ///
    /// # Errors
    ///
    /// [`CollectiveError::Mpi`] where MPI runs already, or is a build for one thread only.
    pub fn start(deadline: Duration) -> Result<Self, CollectiveError> {
        let wrong = |reason: &str| CollectiveError::Mpi {
            operation: "be started",
            reason: reason.to_owned(),
        };
        let started = mpi::initialize_with_threading(Threading::Serialized);
        let (universe, threading) = started.ok_or_else(|| wrong("it runs already"))?;
        if threading < Threading::Serialized {
            return Err(wrong(
                "its build allows calls from one thread only; take a build with threads",
            ));
        }
        let world = universe.world();
        let [rank, size] = [world.rank(), world.size()].map(c_int::unsigned_abs);
        let (rank, size) = (rank as usize, size as usize);
        let [all, aside] = [own(world.as_raw())?, own(world.as_raw())?];
        let ranks = Self {
            rank,
            size,
            deadline,
            state: Mutex::new(MpiState {
                all,
                aside,
                peers: PeerWatch::default(),
                failed: None,
                universe: mem::ManuallyDrop::new(Some(universe)),
            }),
        };
        let homes = ranks.all_gather_bytes(&watch::home())?;
        ranks.state().peers = PeerWatch::new(&homes, rank);
        Ok(ranks)
    }

    /// Ends MPI, when all ranks are here or have failed; waits `deadline` at most for them. Without it, the launcher reports that this rank
    /// ended too early, and ends the others.
    ///
    /// # Errors
    ///
    /// [`CollectiveError`] where a rank did not come.
    pub fn finish(&self, deadline: Duration) -> Result<(), CollectiveError> {
        let mut state = self.state();
        let failed = state.failed.is_some();
        let mut request = MpiRequest::empty();
        // SAFETY: a communicator of MPI's, and a place for a request.
        let begun = unsafe { ffi::MPI_Ibarrier(state.aside.0, request.place()) };
        checked("end together", begun)?;
        // A rank that failed waits for the others, who have something to say, but asks no more what they have.
        match failed {
            true => self.wait_only("end together", request, deadline)?,
            false => self.wait(&mut state, "end together", request, deadline)?,
        }
        if !failed {
            drop(state.universe.take());
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, MpiState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins an operation with `begin`, and waits for it.
    fn operate(
        &self,
        operation: &'static str,
        deadline: Duration,
        begin: impl FnOnce(MPI_Comm, *mut ffi::MPI_Request) -> c_int,
    ) -> Result<(), CollectiveError> {
        let mut state = self.state();
        if let Some(failed) = &state.failed {
            return Err(failed.clone());
        }
        let mut request = MpiRequest::empty();
        let begun = begin(state.all.0, request.place());
        let done = checked(operation, begun)
            .and_then(|()| self.wait(&mut state, operation, request, deadline));
        if let Err(failed) = &done {
            state.failed = Some(failed.clone());
        }
        done
    }

    /// Waits for an operation, and looks after the other ranks.
    fn wait(
        &self,
        state: &mut MpiState,
        operation: &'static str,
        mut request: MpiRequest,
        deadline: Duration,
    ) -> Result<(), CollectiveError> {
        let begun = Instant::now();
        let mut pause = request::Pause::new();
        loop {
            if request.is_over(operation)? {
                return Ok(());
            }
            if pause.is_long() {
                // What they said last, and then whether they are there: a rank that fails says so before it ends.
                let gone = state.peers.gone();
                if let Some((peer, reason)) = watch::said(state.aside.0)? {
                    return Err(CollectiveError::Peer { peer, reason });
                }
                if request.is_over(operation)? {
                    return Ok(());
                }
                if let Some(peer) = gone {
                    return Err(CollectiveError::Gone {
                        peer,
                        rank: self.rank,
                        size: self.size,
                        operation,
                    });
                }
                if begun.elapsed() >= deadline {
                    return Err(self.late(operation, deadline));
                }
            }
            pause.rest();
        }
    }

    /// Waits for an operation, whatever others say.
    fn wait_only(
        &self,
        operation: &'static str,
        mut request: MpiRequest,
        deadline: Duration,
    ) -> Result<(), CollectiveError> {
        let begun = Instant::now();
        let pause = request::Pause::new();
        while !request.is_over(operation)? {
            if begun.elapsed() >= deadline {
                return Err(self.late(operation, deadline));
            }
            pause.rest();
        }
        Ok(())
    }

    fn late(&self, operation: &'static str, waited: Duration) -> CollectiveError {
        CollectiveError::Late {
            rank: self.rank,
            size: self.size,
            operation,
            waited,
        }
    }

    /// The bytes of each rank, which are as many.
    fn gather_equal<const N: usize>(&self, mine: [u8; N]) -> Result<Vec<u8>, CollectiveError> {
        let mut buffers = (mine.to_vec(), vec![0_u8; N * self.size]);
        let done = self.operate("gather bytes", self.deadline, |comm, request| {
            let (mine, all) = &mut buffers;
            // SAFETY: both buffers have the bytes that are told, and live until the operation is over, or for ever where it fails.
            unsafe {
                ffi::MPI_Iallgather(
                    mine.as_ptr().cast(),
                    N as c_int,
                    ffi::RSMPI_UINT8_T,
                    all.as_mut_ptr().cast(),
                    N as c_int,
                    ffi::RSMPI_UINT8_T,
                    comm,
                    request,
                )
            }
        });
        kept(done, buffers).map(|(_, all)| all)
    }
}

/// A communicator of our own, which returns errors instead of ending the process.
fn own(world: MPI_Comm) -> Result<MpiComm, CollectiveError> {
    let mut comm = world;
    // SAFETY: a communicator of MPI's, and a place for another one.
    unsafe {
        checked("be started", ffi::MPI_Comm_dup(world, &mut comm))?;
        let handler = ffi::MPI_Comm_set_errhandler(comm, ffi::RSMPI_ERRORS_RETURN);
        checked("be started", handler)?;
    }
    Ok(MpiComm(comm))
}

/// A buffer of an operation that is over; one that failed may still be written to, so that its buffer is never freed.
fn kept<B>(done: Result<(), CollectiveError>, buffer: B) -> Result<B, CollectiveError> {
    match done {
        Ok(()) => Ok(buffer),
        Err(error) => {
            mem::forget(buffer);
            Err(error)
        }
    }
}

impl Collective for MpiRanks {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn all_reduce_f32(&self, values: &mut [f32]) -> Result<(), CollectiveError> {
        for values in values.chunks_mut(PIECE / size_of::<f32>()) {
            let mine = values.to_vec();
            let sums = vec![0_f32; mine.len()];
            let mut buffers = (mine, sums);
            let done = self.operate("add up values", self.deadline, |comm, request| {
                // SAFETY: both buffers have the values that are told, and live until the operation is over, or for ever where it fails.
                unsafe {
                    ffi::MPI_Iallreduce(
                        buffers.0.as_ptr().cast(),
                        buffers.1.as_mut_ptr().cast(),
                        buffers.0.len() as c_int,
                        ffi::RSMPI_FLOAT,
                        ffi::RSMPI_SUM,
                        comm,
                        request,
                    )
                }
            });
            let (_, sums) = kept(done, buffers)?;
            values.copy_from_slice(&sums);
        }
        Ok(())
    }

    fn all_gather_bytes(&self, mine: &[u8]) -> Result<Vec<Vec<u8>>, CollectiveError> {
        let lengths = self.gather_equal((mine.len() as u64).to_le_bytes())?;
        let lengths: Vec<usize> = bytemuck::pod_collect_to_vec::<u8, u64>(&lengths)
            .into_iter()
            .map(|length| u64::from_le(length) as usize)
            .collect();
        let most = lengths.iter().copied().max().unwrap_or(0);
        let mut all: Vec<Vec<u8>> = lengths.iter().map(|len| Vec::with_capacity(*len)).collect();
        let piece = (PIECE / self.size).max(1);
        for first in (0..most).step_by(piece) {
            let counts = lengths
                .iter()
                .map(|len| len.saturating_sub(first).min(piece));
            let counts: Vec<c_int> = counts.map(|count| count as c_int).collect();
            let places = counts.iter().scan(0, |sum, count| {
                let place = *sum;
                *sum += count;
                Some(place)
            });
            let places: Vec<c_int> = places.collect();
            let received: c_int = counts.iter().sum();
            let part = mine.get(first..).unwrap_or_default();
            let part = part[..part.len().min(piece)].to_vec();
            let received = vec![0_u8; received as usize];
            let mut buffers = (part, counts, places, received);
            let done = self.operate("gather bytes", self.deadline, |comm, request| {
                let (part, counts, places, received) = &mut buffers;
                // SAFETY: all buffers are as long as is told, and live until the operation is over, or for ever where it fails.
                unsafe {
                    ffi::MPI_Iallgatherv(
                        part.as_ptr().cast(),
                        part.len() as c_int,
                        ffi::RSMPI_UINT8_T,
                        received.as_mut_ptr().cast(),
                        counts.as_ptr(),
                        places.as_ptr(),
                        ffi::RSMPI_UINT8_T,
                        comm,
                        request,
                    )
                }
            });
            let (_, counts, _, received) = kept(done, buffers)?;
            let mut rest = received.as_slice();
            for (all, count) in all.iter_mut().zip(counts) {
                let (part, after) = rest.split_at(count as usize);
                all.extend_from_slice(part);
                rest = after;
            }
        }
        Ok(all)
    }

    fn broadcast_bytes(&self, mut bytes: Vec<u8>, from: usize) -> Result<Vec<u8>, CollectiveError> {
        let length = (bytes.len() as u64).to_le_bytes();
        let lengths = self.gather_equal(length)?;
        let length = lengths[8 * from..][..8].try_into().expect("8 bytes a rank");
        let length = u64::from_le_bytes(length) as usize;
        bytes.resize(length, 0);
        for first in (0..length).step_by(PIECE) {
            let many = (length - first).min(PIECE);
            let done = self.operate("share bytes", self.deadline, |comm, request| {
                // SAFETY: the buffer has the bytes that are told, and lives until the operation is over, or for ever where it fails.
                unsafe {
                    ffi::MPI_Ibcast(
                        bytes[first..].as_mut_ptr().cast(),
                        many as c_int,
                        ffi::RSMPI_UINT8_T,
                        from as c_int,
                        comm,
                        request,
                    )
                }
            });
            bytes = kept(done, bytes)?;
        }
        Ok(bytes)
    }

    fn barrier(&self, deadline: Duration) -> Result<(), CollectiveError> {
        self.operate("wait for each other", deadline, |comm, request| {
            // SAFETY: a communicator of MPI's, and a place for a request.
            unsafe { ffi::MPI_Ibarrier(comm, request) }
        })
    }

    fn fail(&self, reason: &str) {
        let mut state = self.state();
        if state.failed.is_some() {
            return;
        }
        state.failed = Some(CollectiveError::Peer {
            peer: self.rank,
            reason: reason.to_owned(),
        });
        watch::tell(state.aside.0, [self.rank, self.size], reason);
    }
}

impl fmt::Debug for MpiRanks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MpiRanks({} of {})", self.rank, self.size)
    }
}
