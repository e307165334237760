//! What becomes of the other ranks: what they say when they fail, and whether their processes are there.

use core::{ffi::c_int, mem::MaybeUninit, time::Duration};
use std::{fs, process, thread, time::Instant};

use mpi::ffi::{self, MPI_Comm};
use serde::{Deserialize, Serialize};

use super::request::{MpiRequest, checked};
use crate::collective::CollectiveError;

/// Where the process of a rank is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct PeerHome {
    /// The machine since its start, and the names that its processes have there; `None` where the system does not tell.
    machine: Option<[String; 2]>,
    process: u32,
}

/// Where this process is, for the others.
pub(super) fn home() -> Vec<u8> {
    let read = || {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let names = fs::read_link("/proc/self/ns/pid").ok()?;
        Some([boot.trim().to_owned(), names.display().to_string()])
    };
    let home = PeerHome {
        machine: read(),
        process: process::id(),
    };
    serde_json::to_vec(&home).expect("plain data is JSON")
}

/// The processes of the ranks on this machine.
#[derive(Debug, Default)]
pub(super) struct PeerWatch(Vec<(usize, u32)>);

impl PeerWatch {
    /// `homes` are those of all ranks.
    pub(super) fn new(homes: &[Vec<u8>], rank: usize) -> Self {
        let homes = homes.iter().map(|home| serde_json::from_slice(home).ok());
        let homes: Vec<Option<PeerHome>> = homes.collect();
        let Some(own) = homes[rank].clone().filter(|own| own.machine.is_some()) else {
            return Self::default();
        };
        let peers = homes.into_iter().enumerate();
        let peers = peers.filter(|(peer, _)| *peer != rank);
        let here = peers.filter_map(|(peer, home)| {
            let home = home.filter(|home| home.machine == own.machine)?;
            Some((peer, home.process))
        });
        Self(here.collect())
    }

    /// A rank whose process is no more.
    pub(super) fn gone(&self) -> Option<usize> {
        let mut peers = self.0.iter();
        let gone = peers.find(|(_, process)| !is_alive(*process));
        gone.map(|(peer, _)| *peer)
    }
}

/// Whether a process is there, and more than a name that its parent has not asked for yet.
fn is_alive(process: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{process}/stat")) else {
        return false;
    };
    // The name of the program, in brackets, may have brackets itself; the state follows.
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
    !state.is_some_and(|state| state.starts_with(['Z', 'X']))
}

/// Bytes of a reason at most: so many go out without the other side's help.
const REASON_MAX: usize = 1024;
/// How long a rank that fails sees to it that the others know.
const TELLING: Duration = Duration::from_millis(200);

/// Tells all other ranks why this one fails.
pub(super) fn tell(aside: MPI_Comm, [rank, size]: [usize; 2], reason: &str) {
    let end = reason.floor_char_boundary(REASON_MAX);
    // MPI may read it until the process ends.
    let reason: &'static [u8] = reason.as_bytes()[..end].to_vec().leak();
    let peers = (0..size).filter(|peer| *peer != rank);
    let mut told: Vec<MpiRequest> = peers
        .map(|peer| {
            let mut request = MpiRequest::empty();
            // SAFETY: the bytes live for ever; the rank is one of the communicator.
            unsafe {
                ffi::MPI_Isend(
                    reason.as_ptr().cast(),
                    reason.len() as c_int,
                    ffi::RSMPI_UINT8_T,
                    peer as c_int,
                    0,
                    aside,
                    request.place(),
                )
            };
            request
        })
        .collect();
    let begun = Instant::now();
    while !told.is_empty() && begun.elapsed() < TELLING {
        told.retain_mut(|request| matches!(request.is_over("tell of a failure"), Ok(false)));
        thread::yield_now();
    }
}

/// What a rank has said that failed: its number, and why.
pub(super) fn said(aside: MPI_Comm) -> Result<Option<(usize, String)>, CollectiveError> {
    const OPERATION: &str = "hear of failures";
    let mut is_there: c_int = 0;
    let mut status = MaybeUninit::<ffi::MPI_Status>::zeroed();
    // SAFETY: places for an answer and a status.
    let asked = unsafe {
        ffi::MPI_Iprobe(
            ffi::RSMPI_ANY_SOURCE,
            0,
            aside,
            &mut is_there,
            status.as_mut_ptr(),
        )
    };
    checked(OPERATION, asked)?;
    if is_there == 0 {
        return Ok(None);
    }
    // SAFETY: plain numbers, which MPI has set, and which are sound as zeros too.
    let peer = unsafe { status.assume_init() }.MPI_SOURCE;
    let mut text = vec![0_u8; REASON_MAX];
    let mut length: c_int = 0;
    // SAFETY: a message is there, with as many bytes as the buffer has at most; the status belongs to it.
    let received = unsafe {
        let received = ffi::MPI_Recv(
            text.as_mut_ptr().cast(),
            REASON_MAX as c_int,
            ffi::RSMPI_UINT8_T,
            peer,
            0,
            aside,
            status.as_mut_ptr(),
        );
        ffi::MPI_Get_count(status.as_ptr(), ffi::RSMPI_UINT8_T, &mut length);
        received
    };
    checked(OPERATION, received)?;
    text.truncate(length.max(0) as usize);
    let reason = String::from_utf8_lossy(&text).into_owned();
    Ok(Some((peer.unsigned_abs() as usize, reason)))
}
