//! Ranks whose sums and large buffers go from card to card, by NVIDIA's NCCL.

use core::time::Duration;
use std::{
    mem::ManuallyDrop,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Instant,
};

use cudarc::{
    driver::{self, CudaContext, CudaStream, DriverError},
    nccl::{
        Comm, Id, ReduceOp,
        result::{NcclError, NcclStatus},
    },
};

use super::{Collective, CollectiveError};

/// Ranks that have an NVIDIA card each, over other ones that tell them of each other: [`MpiRanks`](super::MpiRanks).
///
/// Sums, and bytes of all ranks where they are many, are copied to the card, go from card to card, and are copied back, since a
/// [`Collective`] has its buffers in host memory. All else goes the way of the other ranks, which are also asked before each operation
/// whether all are there: NCCL itself waits for ever.
///
/// It has been compiled and has run on no card yet.
pub struct NcclRanks {
    ranks: Arc<dyn Collective>,
    deadline: Duration,
    state: Mutex<NcclState>,
}

struct NcclState {
    stream: Arc<CudaStream>,
    /// It is not dropped after an operation that did not end.
    comm: ManuallyDrop<Comm>,
    failed: Option<CollectiveError>,
}

// SAFETY: a communicator may be used by any thread, one at a time; the lock around the state sees to that.
unsafe impl Send for NcclState {}

/// Bytes of a rank from which on they go from card to card.
const MANY: usize = 1 << 20;
/// Between two looks at an operation.
const PAUSE: Duration = Duration::from_micros(100);

impl NcclRanks {
    /// Meets the other ranks, of which each has the card `card` of its machine, as the driver counts them; two ranks cannot share one.
    /// Operations wait `deadline` at most.
    ///
    /// # Errors
    ///
    /// [`CollectiveError::Unavailable`] where a library is missing, [`CollectiveError::Nccl`] where the card or NCCL fails. All ranks
    /// have to call it.
    pub fn start(
        ranks: Arc<dyn Collective>,
        card: usize,
        deadline: Duration,
    ) -> Result<Self, CollectiveError> {
        const OPERATION: &str = "be started";
        let is_here = is_here();
        if !super::all(&*ranks, is_here)? {
            return Err(CollectiveError::Unavailable {
                needs: "NCCL".to_owned(),
                size: ranks.size(),
                reason: match is_here {
                    true => "another rank does not find NVIDIA's driver or the library of NCCL",
                    false => {
                        "NVIDIA's driver (libcuda) or the library of NCCL (libnccl.so.2) is not found"
                    }
                },
            });
        }
        let id = match ranks.rank() {
            0 => Some(Id::new().map_err(failed(OPERATION))?),
            _ => None,
        };
        let bytes = id.map(|id| id.internal().map(|byte| byte.cast_unsigned()));
        let bytes = bytes.map_or(Vec::new(), Vec::from);
        let bytes = ranks.broadcast_bytes(bytes, 0)?;
        let id: [u8; 128] = bytes.try_into().map_err(|bytes: Vec<u8>| {
            let reason = format!("an id of {} bytes", bytes.len());
            CollectiveError::Unreadable { peer: 0, reason }
        })?;
        let id = Id::uninit(id.map(u8::cast_signed));
        let context = CudaContext::new(card).map_err(failed(OPERATION))?;
        let stream = context.new_stream().map_err(failed(OPERATION))?;
        let comm = Comm::from_rank(Arc::clone(&stream), ranks.rank(), ranks.size(), id);
        let state = NcclState {
            stream,
            comm: ManuallyDrop::new(comm.map_err(failed(OPERATION))?),
            failed: None,
        };
        Ok(Self {
            ranks,
            deadline,
            state: Mutex::new(state),
        })
    }

    fn state(&self) -> MutexGuard<'_, NcclState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Copies `values` to the card, begins an operation with them, and copies `len` values of its result back.
    fn operate<V: Copy + driver::DeviceRepr + driver::ValidAsZeroBits>(
        &self,
        operation: &'static str,
        values: &[V],
        len: usize,
        begin: impl FnOnce(
            &Comm,
            &driver::CudaSlice<V>,
            &mut driver::CudaSlice<V>,
        ) -> Result<NcclStatus, NcclError>,
    ) -> Result<Vec<V>, CollectiveError> {
        self.ranks.barrier(self.deadline)?;
        let mut state = self.state();
        if let Some(failed) = &state.failed {
            return Err(failed.clone());
        }
        let NcclState { stream, comm, .. } = &*state;
        let run = || -> Result<Vec<V>, CollectiveError> {
            let from = stream.clone_htod(values).map_err(failed(operation))?;
            let to = stream.alloc_zeros::<V>(len).map_err(failed(operation))?;
            // A card may write to them after an operation that did not end: such buffers are not freed.
            let (from, mut to) = (ManuallyDrop::new(from), ManuallyDrop::new(to));
            begin(comm, &from, &mut to).map_err(failed(operation))?;
            self.wait(operation, stream)?;
            let found = stream.clone_dtoh(&*to).map_err(failed(operation))?;
            drop((ManuallyDrop::into_inner(from), ManuallyDrop::into_inner(to)));
            Ok(found)
        };
        let found = run();
        if let Err(error) = &found {
            state.failed = Some(error.clone());
        }
        found
    }

    fn wait(&self, operation: &'static str, stream: &CudaStream) -> Result<(), CollectiveError> {
        let event = stream.record_event(None).map_err(failed(operation))?;
        let begun = Instant::now();
        while !event.try_is_complete().map_err(failed(operation))? {
            if begun.elapsed() >= self.deadline {
                return Err(CollectiveError::Late {
                    rank: self.rank(),
                    size: self.size(),
                    operation,
                    waited: self.deadline,
                });
            }
            thread::sleep(PAUSE);
        }
        Ok(())
    }
}

/// Whether driver and library are there.
fn is_here() -> bool {
    // SAFETY: both calls only try to open libraries by their names.
    unsafe { driver::sys::is_culib_present() && cudarc::nccl::sys::is_culib_present() }
}

/// What a library says, as an error.
fn failed<E: NcclReason>(operation: &'static str) -> impl Fn(E) -> CollectiveError {
    move |error| CollectiveError::Nccl {
        operation,
        reason: error.reason(),
    }
}

trait NcclReason {
    fn reason(&self) -> String;
}

impl NcclReason for DriverError {
    fn reason(&self) -> String {
        format!("{self:?}")
    }
}

impl NcclReason for NcclError {
    fn reason(&self) -> String {
        format!("{:?}", self.0)
    }
}

impl Collective for NcclRanks {
    fn rank(&self) -> usize {
        self.ranks.rank()
    }

    fn size(&self) -> usize {
        self.ranks.size()
    }

    fn all_reduce_f32(&self, values: &mut [f32]) -> Result<(), CollectiveError> {
        if values.is_empty() {
            return self.ranks.barrier(self.deadline);
        }
        let sums = self.operate("add up values", values, values.len(), |comm, from, to| {
            comm.all_reduce(from, to, &ReduceOp::Sum)
        })?;
        values.copy_from_slice(&sums);
        Ok(())
    }

    fn all_gather_bytes(&self, mine: &[u8]) -> Result<Vec<Vec<u8>>, CollectiveError> {
        let lengths = self
            .ranks
            .all_gather_bytes(&(mine.len() as u64).to_le_bytes())?;
        let lengths = lengths.iter().map(|bytes| {
            let bytes = bytes.as_slice().try_into();
            bytes.map_or(0, |bytes| u64::from_le_bytes(bytes) as usize)
        });
        let lengths: Vec<usize> = lengths.collect();
        let most = lengths.iter().copied().max().unwrap_or(0);
        if most < MANY {
            return self.ranks.all_gather_bytes(mine);
        }
        // All ranks give as many.
        let mut padded = mine.to_vec();
        padded.resize(most, 0);
        let all = most * self.size();
        let all = self.operate("gather bytes", &padded, all, |comm, from, to| {
            comm.all_gather(from, to)
        })?;
        let of_ranks = all.chunks_exact(most).zip(lengths);
        Ok(of_ranks.map(|(bytes, len)| bytes[..len].to_vec()).collect())
    }

    fn broadcast_bytes(&self, bytes: Vec<u8>, from: usize) -> Result<Vec<u8>, CollectiveError> {
        self.ranks.broadcast_bytes(bytes, from)
    }

    fn barrier(&self, deadline: Duration) -> Result<(), CollectiveError> {
        self.ranks.barrier(deadline)
    }

    fn fail(&self, reason: &str) {
        self.ranks.fail(reason);
    }
}

impl Drop for NcclRanks {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if state.failed.is_none() {
            // SAFETY: it is dropped once, here, and not used again.
            unsafe { ManuallyDrop::drop(&mut state.comm) };
        }
    }
}

impl core::fmt::Debug for NcclRanks {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "NcclRanks({} of {})", self.rank(), self.size())
    }
}
