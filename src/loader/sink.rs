//! Weights that go elsewhere than into a module at once: into a sink of the caller's, or to where they stream from.

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
            device: settings.device.filter(|_| plan.packs_on_devices()),
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
        if plan.strategy != Strategy::Streaming {
            return Ok(None);
        }
        let limits = self.ring_limits(plan);
        let stream = Streamer::new(&self.device, &self.config.place.stream_from, limits);
        stream.map(Some).map_err(|error| {
            let StreamFrom::Disk(folder) = &self.config.place.stream_from else {
                unreachable!("host memory needs no file");
            };
            Error::StreamFile {
                folder: folder.display().to_string(),
                source: error,
            }
        })
    }
    /// The memory that streamed weights get: what the others leave, less a tenth for activations. The weights that are
    /// fetched ahead come first, experts that stay get the rest.
    fn ring_limits(&self, plan: &Plan) -> RingLimits {
        let ahead = self.config.read.resolved_prefetch();
        let resident = plan.steps.iter().filter(|step| !step.streams());
        let resident: u64 = resident.map(Step::bytes_finished).sum();
        let device = self.device_bytes();
        let memory = match (self.target.memory, &self.config.place.stream_from) {
            (MemoryKind::Host, StreamFrom::Disk(_)) => {
                [device, self.host_bytes()].into_iter().flatten().min()
            }
            _ => device,
        };
        let room = memory.map(|memory| (memory / 10 * 9).saturating_sub(resident));
        let is_expert = |step: &&Step| step.slot.role == Role::Expert;
        let streamed = || plan.steps.iter().filter(|step| step.streams());
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
}
