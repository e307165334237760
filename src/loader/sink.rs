//! Weights that go elsewhere than into a module at once: into a sink of the caller's, or to where they stream from.

use super::engine::{Engine, finish};
use crate::{
    config::{Strategy, StreamFrom},
    error::Error,
    model::{Architecture, stream::RingLimits},
    pipeline::{Settings, Sink},
    place::Streamer,
    plan::{Home, Order, Plan, Step},
    report::LoadReport,
};

impl Engine {
    /// Hands every finished weight to `sink`, in the order that `order` says.
    pub(super) fn run_with<A: Architecture>(
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
        let timings = self.run(&mut plan, sink, &settings)?;
        let report = self.report(&plan, allowance, &timings, recording);
        finish(&report, &observers)?;
        Ok(report)
    }

    /// Where the matrices of `plan` stream from, if they do.
    pub(super) fn stream(&self, plan: &Plan) -> Result<Option<Streamer>, Error> {
        if plan.strategy != Strategy::Streaming {
            return Ok(None);
        }
        // Streamed weights get the memory that the others leave, less a tenth for activations.
        let resident = plan.steps.iter().filter(|step| !step.streams());
        let resident: u64 = resident.map(Step::bytes_finished).sum();
        let limits = RingLimits {
            ahead: self.config.read.resolved_prefetch(),
            bytes: self
                .device_bytes()
                .map(|bytes| (bytes / 10 * 9).saturating_sub(resident)),
        };
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
}
