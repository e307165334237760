//! How to carry out a plan: threads, bytes, devices, observers.

use std::sync::Arc;

use burn::tensor::Device;
use rayon::ThreadPool;

use super::{error::PipelineError, in_flight::InFlight};
use crate::{
    observe::Observer,
    plan::{Home, Step},
};

/// How to carry out a plan.
#[derive(Debug, Clone)]
pub struct Settings<'a> {
    /// Threads that convert.
    pub workers: usize,
    /// Threads that convert at least: where the system starts fewer than [`workers`](Self::workers), a run goes on with as few.
    pub workers_least: usize,
    /// Threads that share each read.
    pub readers: usize,
    /// Approximate bytes of a tile. Rows are not cut, and rows that a method packs together stay together.
    pub tile_bytes: u64,
    /// Bytes of source weights in memory at once. A tile that cannot be split further passes alone.
    pub in_flight: Arc<InFlight>,
    /// The devices of the plan, each of which packs the weights that live there, by the methods that it has; none to pack on the
    /// host.
    pub devices: &'a [Device],
    /// Whether the first of them packs weights that go to a file, as a save wants it. Weights that stream from a file are packed
    /// where they stay.
    pub packs_for_files: bool,
    /// Bytes of the largest allocation on any of these devices.
    pub allocation_max: Option<u64>,
    /// Gets every event.
    pub observer: &'a dyn Observer,
}

impl<'a> Settings<'a> {
    /// Converts on the host with `workers` threads, and at most `in_flight` bytes of source data in memory.
    pub fn new(workers: usize, in_flight: u64, observer: &'a dyn Observer) -> Self {
        Self::sharing(workers, &Arc::new(InFlight::new(in_flight)), observer)
    }

    /// Converts on the host with `workers` threads, and shares a bound on bytes in flight with other runs.
    pub fn sharing(workers: usize, in_flight: &Arc<InFlight>, observer: &'a dyn Observer) -> Self {
        Self {
            workers,
            workers_least: workers,
            readers: 1,
            tile_bytes: tile_bytes(in_flight.max()),
            in_flight: Arc::clone(in_flight),
            devices: &[],
            packs_for_files: false,
            allocation_max: None,
            observer,
        }
    }

    /// The device that packs the weight of `step`; `None` for the host.
    pub(crate) fn device(&self, step: &Step) -> Option<&'a Device> {
        match step.home {
            Home::Device(nth) => self.devices.get(nth),
            Home::Sink => self.devices.first(),
            Home::Disk if self.packs_for_files => self.devices.first(),
            Home::Host | Home::Disk => None,
        }
    }

    /// The threads that convert.
    pub(crate) fn pool(&self) -> Result<ThreadPool, PipelineError> {
        let mut count = self.workers;
        loop {
            match pool(count, "firebox-convert") {
                Err(error) if count / 2 >= self.workers_least.max(1) => {
                    tracing::warn!(%error, "half as many convert");
                    count /= 2;
                }
                pool => return pool,
            }
        }
    }
}

/// Large enough that a read costs little besides its bytes, small enough to stay in the cache of
/// today's processors until it is converted.
pub(super) const TILE_BYTES: u64 = 4 << 20;

/// Bytes of a tile, where `in_flight` bytes have room for several.
pub(crate) fn tile_bytes(in_flight: u64) -> u64 {
    TILE_BYTES.min(in_flight / 8)
}

pub(super) fn pool(count: usize, name: &'static str) -> Result<ThreadPool, PipelineError> {
    let count = count.max(1);
    rayon::ThreadPoolBuilder::new()
        .num_threads(count)
        .thread_name(move |index| format!("{name}-{index}"))
        .build()
        .map_err(|error| PipelineError::Workers {
            count,
            reason: error.to_string(),
        })
}
