//! The memory of a plan: what the load, the model and its training take on each device and on the host.

use super::{Loader, budget::UNPACKED, engine::Engine};
use crate::{
    config::Reading,
    error::Error,
    model::{Architecture, PassSize},
    pipeline::{RunSize, foretell},
    plan::{
        Home, MemoryPlan, Plan, Step,
        memory::{LoadBytes, TrainingBytes, UseBytes},
    },
    source::{Access, SourceExt},
    target::{KnownTarget, MemoryKind, Target, memory},
};

/// What threads, queues and the report of a run take beside all that is counted, in bytes: measured on loads of weights of which
/// nothing is converted.
const RUN: u64 = 640 << 10;

/// Bytes of a read that a source maps, if it maps any.
const MAPPED: usize = 1 << 20;

/// Bytes of weights from which on a source looks whether to map them.
const PROBED: u64 = 1 << 30;

impl<T: Target> Loader<T> {
    /// The memory that a plan of this loader takes: of the load and, where one is given, of a pass.
    ///
    /// # Errors
    ///
    /// As [`plan`](Self::plan).
    pub fn memory<A: Architecture>(
        &self,
        plan: &Plan,
        pass: Option<PassSize>,
        training: Option<TrainingBytes>,
    ) -> Result<MemoryPlan, Error> {
        self.engine.memory::<A>(plan, pass, training)
    }
}

impl Engine {
    /// The memory that a plan takes.
    pub(super) fn memory<A: Architecture>(
        &self,
        plan: &Plan,
        pass: Option<PassSize>,
        training: Option<TrainingBytes>,
    ) -> Result<MemoryPlan, Error> {
        let allowance = match self.allowance(plan, &|_| false) {
            Ok(allowance) => allowance,
            // What does not fit is said with all of its numbers.
            Err(_) => self.asked(plan.strategy),
        };
        let mapped = self.is_mapped(plan)?;
        let foretold = foretell(
            plan,
            &RunSize {
                tile: allowance.tile,
                in_flight: allowance.in_flight,
                mapped,
            },
        );
        let load = LoadBytes {
            fixed: memory::anonymous().unwrap_or(0) + RUN,
            limit: self.host_bytes_for(plan.strategy),
            host: [foretold.weights, foretold.in_flight, foretold.scratch],
            mapped,
            tile: allowance.tile,
            streamed: (0..plan.devices.len())
                .map(|nth| self.streamed(plan, nth))
                .collect(),
            unpacked: UNPACKED.min(largest_unpacked(plan)),
            device_fixed: self.device_fixed(),
        };
        let config = self.model_config::<A>()?;
        let means = self.pass_means();
        let pass = pass.and_then(|size| Some((size, A::pass_bytes(&config, &size, &means)?)));
        let mut memory = MemoryPlan::new(plan, &load, &UseBytes { pass, training });
        if let Some(stated) = &self.stated
            && self.target.memory == MemoryKind::Device
        {
            // A map leaves some of it free; what there is has been stated.
            for device in &mut memory.devices {
                let bytes = stated.devices.bytes().get(device.index);
                device.limit = bytes.copied().or(device.limit);
            }
        }
        Ok(memory)
    }

    /// Whether the source maps the weights of `plan`. It looks at the page cache for that, and may time a read. A model of the hub
    /// would be downloaded for it, so that only its size is looked at.
    fn is_mapped(&self, plan: &Plan) -> Result<bool, Error> {
        let source = self.checkpoint().source();
        let mut reads = plan.steps.iter().flat_map(Step::reads);
        let large = reads.find(|(_, range)| range.end - range.start >= MAPPED as u64);
        let Some((file, range)) = large else {
            return Ok(false);
        };
        if source.version()?.is_some() {
            return Ok(match self.config.read.reading {
                Reading::Mapped => true,
                Reading::Auto => self.checkpoint().total_bytes() >= PROBED,
                _ => false,
            });
        }
        let shared = source.share(file, range.start, MAPPED, Access::Once)?;
        Ok(shared.is_some())
    }

    /// Bytes of streamed weights that are on the device `nth` at once: those ahead, and the one in use.
    fn streamed(&self, plan: &Plan, nth: usize) -> u64 {
        let on_host = self.target.memory == MemoryKind::Host;
        let streams = |step: &&Step| match step.home {
            // A weight in host memory is used where it is.
            Home::Host => !on_host,
            Home::Disk => true,
            _ => false,
        };
        let streamed = plan.steps.iter().filter(|step| step.device == nth);
        let streamed = streamed.filter(streams);
        let largest = streamed.map(Step::bytes_finished).max().unwrap_or(0);
        let most = largest * (self.config.read.resolved_prefetch() as u64 + 1);
        let room = self.ring_limits(plan, nth).bytes;
        room.map_or(most, |room| most.min(room.max(largest)))
    }

    fn device_fixed(&self) -> Option<u64> {
        let known: Option<KnownTarget> = self.target.name.parse().ok();
        known.and_then(KnownTarget::fixed_bytes)
    }
}

/// Bytes of the largest packed weight, dense.
fn largest_unpacked(plan: &Plan) -> u64 {
    let packed = plan
        .steps
        .iter()
        .filter(|step| step.action.format().is_some());
    let dense = packed.map(|step| {
        let [rows, cols] = step.matrix();
        (rows * cols * plan.dtype.size()) as u64
    });
    dense.max().unwrap_or(0)
}
