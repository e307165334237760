//! Where finished weights go: a strategy that is chosen, the ring of one that streams, a sink of the caller's own.

use std::time::Instant;

use super::Loader;
use crate::{
    config::{Facts, Keep, Strategy},
    error::Error,
    model::Architecture,
    pipeline::{Observers, Sink},
    plan::{Order, Plan, Step},
    report::{LoadReport, MemoryWatch, memory},
    stream::{Limits, Stream},
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
        let memory = MemoryWatch::start();
        let started = Instant::now();
        let config = A::config(self.checkpoint.config())?;
        let mut plan = self.plan_for::<A>(&config)?;
        plan.check_complete()?;
        order.sort(&mut plan, &A::slots(&config));
        let observers = Observers(self.config.observers.clone());
        let settings = self.settings_for(plan.strategy, &observers);
        let timings = self.run(&mut plan, sink, &settings)?;
        Ok(self.report(&plan, &timings, started, memory))
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
            ahead: self.config.prefetch,
            bytes: self
                .device_bytes()
                .map(|bytes| (bytes / 10 * 9).saturating_sub(resident)),
        };
        let stream = Stream::new(&self.device, &self.config.keep, limits);
        stream.map(Some).map_err(|error| {
            let Keep::Disk(folder) = &self.config.keep else {
                unreachable!("host memory needs no file");
            };
            Error::Keep {
                folder: folder.display().to_string(),
                source: error,
            }
        })
    }

    /// Chooses where `bytes_kept` of finished weights live, unless the caller has.
    pub(super) fn place(&self, plan: &mut Plan, bytes_kept: u64) {
        let asked = self.config.strategy;
        (plan.strategy, plan.strategy_reason) = match asked {
            Strategy::Auto => Strategy::choose(&Facts {
                bytes_kept,
                host: self.host_bytes(),
                device: self.device_bytes(),
                memory: T::MEMORY,
                unified: self.capabilities.unified,
                disk: matches!(self.config.keep, Keep::Disk(_)),
            }),
            _ => (asked, "asked for".to_owned()),
        };
    }

    /// Bytes of host memory that may be used.
    fn host_bytes(&self) -> Option<u64> {
        let all = memory::available();
        let budget = self.config.host_budget;
        budget.map_or(all, |budget| budget.resolve(all))
    }

    /// Bytes of the device's memory that may be used.
    fn device_bytes(&self) -> Option<u64> {
        let all = self.capabilities.memory;
        let budget = self.config.device_budget;
        budget.map_or(all, |budget| budget.resolve(all))
    }
}
