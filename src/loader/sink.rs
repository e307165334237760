//! Weights that go elsewhere than into a module at once: into a sink of the caller's, or to where they stream from.

use std::path::PathBuf;

use super::engine::{Engine, finish};
use crate::{
    config::{Strategy, StreamFrom},
    error::Error,
    model::{Architecture, Role, stream::RingLimits},
    pipeline::{Settings, Sink},
    place::Streamer,
    plan::{Home, Order, Plan, Step},
    report::LoadReport,
    target::MemoryKind,
};

impl Engine {
    /// Hands every finished weight to `sink`, in the order that `order` says, or what this rank keeps of each.
    pub(super) fn run_with<A: Architecture>(
        &self,
        order: &Order,
        sink: &mut dyn Sink,
    ) -> Result<LoadReport, Error> {
        self.together::<A, _>(|| self.run_with_alone::<A>(order, sink))
    }

    /// The same without a meeting of ranks.
    pub(super) fn run_with_alone<A: Architecture>(
        &self,
        order: &Order,
        sink: &mut dyn Sink,
    ) -> Result<LoadReport, Error> {
        let recording = self.record();
        let config = self.model_config::<A>()?;
        let mut plan = self.plan::<A>(&config)?;
        plan.check_complete()?;
        order.sort(&mut plan, &A::slots(&config));
        let observers = recording.among(&self.observers);
        plan.send(Home::Sink);
        let allowance = self.allowance(&plan, &|_| false)?;
        let settings = self.settings_for(allowance, &observers);
        let settings = Settings {
            devices: match plan.packs_on_devices() {
                true => settings.devices,
                false => &[],
            },
            ..settings
        };
        let (timings, rank) = self.run_as_rank(&mut plan, sink, &settings)?;
        let mut report = self.report(&plan, allowance, &timings, recording);
        report.rank = rank;
        finish(&report, &observers)?;
        Ok(report)
    }

    /// Where the matrices of `plan` stream from, if they do.
    pub(super) fn stream(&self, plan: &Plan) -> Result<Option<Streamer>, Error> {
        let mut steps = plan.steps.iter();
        if plan.strategy != Strategy::Streaming && !steps.any(Step::streams) {
            return Ok(None);
        }
        let limits = (0..plan.devices.len()).map(|nth| self.ring_limits(plan, nth));
        let limits: Vec<RingLimits> = limits.collect();
        let mut steps = plan.steps.iter();
        let folder = match &self.config.place.stream_from {
            StreamFrom::Disk(folder) if steps.any(|step| step.home == Home::Disk) => Some(folder),
            _ => None,
        };
        let stream = Streamer::new(&self.devices.all, folder.map(PathBuf::as_path), &limits);
        let failed = |source| Error::StreamFile {
            folder: folder.map_or_else(String::new, |folder| folder.display().to_string()),
            source,
        };
        stream.map(Some).map_err(failed)
    }

    /// The memory that weights that stream to the device `nth` get. The weights that are fetched ahead come first, experts that stay
    /// get the rest.
    pub(super) fn ring_limits(&self, plan: &Plan, nth: usize) -> RingLimits {
        let ahead = self.config.read.resolved_prefetch();
        let room = self.room(plan, nth);
        let is_expert = |step: &&Step| step.slot.role == Role::Expert;
        let streams = |step: &&Step| step.streams() && step.device == nth;
        let streamed = || plan.steps.iter().filter(streams);
        let ahead = if streamed().next().is_none() {
            0
        } else {
            ahead
        };
        if !streamed().any(|step| is_expert(&step)) {
            return RingLimits {
                ahead,
                bytes: room,
                experts: 0,
            };
        }
        let others = streamed().filter(|step| !is_expert(step));
        let largest = others.map(Step::bytes_finished).max().unwrap_or(0);
        let bytes = room.map(|room| room.min((ahead as u64 + 1) * largest));
        RingLimits {
            ahead,
            bytes,
            experts: room.unwrap_or(0) - bytes.unwrap_or(0),
        }
    }

    /// What the other weights leave of the device `nth`, less a tenth for activations, or less cache and activations where a map has
    /// counted them.
    fn room(&self, plan: &Plan, nth: usize) -> Option<u64> {
        let resident = plan.resident(nth);
        if plan.mapped {
            let [cache, activations] = plan.pass_on_device(nth);
            let memory = plan.devices[nth].memory;
            return memory.map(|memory| memory.saturating_sub(resident + cache + activations));
        }
        let device = self.device_bytes();
        let memory = match (self.target.memory, &self.config.place.stream_from) {
            (MemoryKind::Host, StreamFrom::Disk(_)) => {
                [device, self.host_bytes()].into_iter().flatten().min()
            }
            _ => device,
        };
        memory.map(|memory| (memory / 10 * 9).saturating_sub(resident))
    }
}
