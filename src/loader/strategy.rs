//! Strategies that are more than a number of bytes: streaming, and one of the caller's own.

use super::{Loader, finished};
use crate::{
    config::{Strategy, StreamFrom},
    error::Error,
    model::Architecture,
    model::stream::Limits,
    pipeline::{Settings, Sink},
    place::Stream,
    plan::{Home, Order, Plan, Step},
    report::LoadReport,
    target::Target,
};

impl<T: Target> Loader<T> {
    /// Hands every finished weight of the model to a sink of one's own, in an order of one's own: what becomes of them
    /// is the sink's business. Of the strategy only where weights are packed matters here: on the host with
    /// [`Strategy::UnifiedMemory`] and [`Strategy::Streaming`], elsewhere on a device that can.
    ///
    /// # Errors
    ///
    /// Any [`Error`].
    pub fn run_with<A: Architecture>(
        &self,
        order: &Order,
        sink: &mut dyn Sink,
    ) -> Result<LoadReport, Error> {
        let recording = self.record();
        let config = A::config(self.checkpoint.config())?;
        let mut plan = self.plan_for::<A>(&config)?;
        plan.check_complete()?;
        order.sort(&mut plan, &A::slots(&config));
        let observers = recording.among(&self.observers);
        plan.send(Home::Sink);
        let room = self.room(&plan, &|_| false)?;
        let settings = self.settings_for(room, &observers);
        let settings = Settings {
            device: settings.device.filter(|_| plan.packs_on_devices()),
            ..settings
        };
        let timings = self.run(&mut plan, sink, &settings)?;
        let report = self.report(&plan, room, &timings, recording);
        finished(&report, &observers)?;
        Ok(report)
    }

    /// What keeps the matrices of `plan`, where they are to be streamed.
    pub(super) fn stream(&self, plan: &Plan) -> Result<Option<Stream>, Error> {
        if plan.strategy != Strategy::Streaming {
            return Ok(None);
        }
        // What streams has what the rest leaves, and a tenth less for what is computed.
        let resident = plan.steps.iter().filter(|step| !step.streams());
        let resident: u64 = resident.map(Step::bytes_kept).sum();
        let limits = Limits {
            ahead: self.config.read.resolved_prefetch(),
            bytes: self
                .device_bytes()
                .map(|bytes| (bytes / 10 * 9).saturating_sub(resident)),
        };
        let stream = Stream::new(&self.device, &self.config.place.stream_from, limits);
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
