//! The numbers of a load's report, gathered while it runs.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use burn::tensor::Device;

use super::{
    Series,
    watch::{Looker, MemoryWatch, Seen},
};
use firebox_kernels::compare::Stats;

use crate::observe::{Event, Flow, Observer, Observers};

/// Watches memory and listens until the report is made.
#[derive(Debug)]
pub(crate) struct Recording {
    started: Instant,
    memory: MemoryWatch,
    heard: Arc<Listener>,
}

/// The gathered numbers.
#[derive(Debug)]
pub(crate) struct Recorded {
    pub(crate) started: Instant,
    pub(crate) ended: Instant,
    pub(crate) host: Seen,
    /// Memory of the devices together.
    pub(crate) device: Series,
    /// Most of it, by device; nothing where the driver does not tell.
    pub(crate) peaks: Vec<Option<u64>>,
    /// By tensor, of those that were verified.
    pub(crate) errors: HashMap<String, Stats>,
}

#[derive(Debug)]
struct Listener {
    started: Instant,
    host: Looker,
    /// Devices with their own memory.
    devices: Vec<Device>,
    state: Mutex<Gathered>,
}

/// Bytes of finished weights between two looks at memory: small weights change little, and a look takes as long as many of
/// them. The memory of the host has a watch of its own beside these looks.
const LOOK_BYTES: u64 = 1 << 20;

#[derive(Debug, Default)]
struct Gathered {
    /// Bytes of finished weights since the last look.
    since: u64,
    device: Series,
    peaks: Vec<Option<u64>>,
    errors: HashMap<String, Stats>,
}

impl Gathered {
    /// Whether memory may have changed by enough to be looked at, after a weight of so many `bytes`.
    const fn enough(&mut self, bytes: u64) -> bool {
        self.since = self.since.saturating_add(bytes);
        let enough = self.since >= LOOK_BYTES;
        if enough {
            self.since = 0;
        }
        enough
    }
}

impl Recording {
    /// Begins now; `devices` have their own memory.
    pub(crate) fn start(devices: Vec<Device>) -> Self {
        let started = Instant::now();
        let memory = MemoryWatch::start(started);
        Self {
            started,
            heard: Arc::new(Listener {
                started,
                host: memory.looker(),
                state: Mutex::new(Gathered {
                    peaks: vec![None; devices.len()],
                    ..Gathered::default()
                }),
                devices,
            }),
            memory,
        }
    }

    /// Listens among `observers`.
    pub(crate) fn among(&self, observers: &Observers) -> Observers {
        observers.clone().and(self.heard.clone())
    }

    pub(crate) fn stop(self) -> Recorded {
        let Gathered {
            device,
            peaks,
            errors,
            ..
        } = std::mem::take(&mut *self.heard.state());
        Recorded {
            started: self.started,
            ended: Instant::now(),
            host: self.memory.stop(),
            device,
            peaks,
            errors,
        }
    }
}

impl Listener {
    fn state(&self) -> MutexGuard<'_, Gathered> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Listener {
    fn observe(&self, event: &Event<'_>) -> Flow {
        match event {
            // Only twice a tensor: a device is asked through its queue, which takes time.
            Event::Packed { step, .. } | Event::Placed { step, .. } => {
                if !self.state().enough(step.bytes_finished()) {
                    return Flow::Continue;
                }
                self.host.look();
                let usages = self.devices.iter().map(Device::memory_pool_usage);
                let reserved = usages.map(|usage| Some(usage?.bytes_reserved));
                let reserved: Vec<Option<u64>> = reserved.collect();
                if reserved.iter().any(Option::is_some) {
                    let at = self.started.elapsed();
                    let mut state = self.state();
                    state.device.push(at, reserved.iter().flatten().sum());
                    for (peak, now) in state.peaks.iter_mut().zip(reserved) {
                        *peak = (*peak).max(now);
                    }
                }
            }
            Event::Verified { step, stats, .. } => {
                let name = step.slot.name.clone();
                self.state().errors.insert(name, **stats);
            }
            _ => {}
        }
        Flow::Continue
    }
}
