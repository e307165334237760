//! The road of a load: plan, check, run, build.

use std::collections::BTreeMap;

use super::{
    Loaded,
    engine::{Engine, finish},
};
use crate::{
    config::{Parallel, Ranks},
    error::Error,
    model::{Architecture, Weights},
    pipeline::Settings,
    place::{ModuleSink, Streamer, VerifyError},
    plan::Plan,
    ranks::RankError,
    report::Recording,
    target::TargetError,
};

impl Engine {
    /// Loads the model, from the cache of packed weights if one is asked for.
    pub(super) fn load<A: Architecture>(&self) -> Result<Loaded<A>, Error> {
        self.together::<A, _>(|| self.load_alone())
    }

    /// The same without a meeting of ranks.
    fn load_alone<A: Architecture>(&self) -> Result<Loaded<A>, Error> {
        let config = self.model_config::<A>()?;
        let Some(folder) = &self.config.pack.cache else {
            return self.load_as(&config);
        };
        if self.config.pack.verify.is_some() {
            return Err(VerifyError::Cached.into());
        }
        match self.cached::<A>(&config, folder)? {
            Some(cached) => cached.load_as(&config),
            None => self.load_as(&config),
        }
    }

    /// Loads the model by a plan that was made earlier.
    pub(super) fn load_plan<A: Architecture>(&self, mut plan: Plan) -> Result<Loaded<A>, Error> {
        let config = self.model_config::<A>()?;
        let planned = plan.ranks.as_ref().map(|share| share.ranks);
        let divides = |ranks: &Ranks| ranks.parallel != Parallel::Replicate;
        if let Some(Ranks { parallel, .. }) = planned.or(self.ranks()).filter(divides) {
            return Err(RankError::Unsupported {
                what: "a load by a plan that was made earlier",
                parallel,
                instead: "plan and load in one step",
            }
            .into());
        }
        let stream_from = &self.config.place.stream_from;
        plan.take_over(&self.request(), &A::slots(&config), stream_from)?;
        plan.adapters = self.planned_adapters::<A>(&config, &plan)?;
        self.carry_out(&config, plan, self.record())
    }

    fn load_as<A: Architecture>(&self, config: &A::Config) -> Result<Loaded<A>, Error> {
        let recording = self.record();
        let plan = self.plan::<A>(config)?;
        self.carry_out(config, plan, recording)
    }

    /// Checks the plan, runs it, and builds the module.
    fn carry_out<A: Architecture>(
        &self,
        config: &A::Config,
        mut plan: Plan,
        recording: Recording,
    ) -> Result<Loaded<A>, Error> {
        let allowance = self.check(&plan)?;
        let divided = self.divided()?;
        if let Some((ranks, together)) = &divided {
            self.compare_ranks::<A>(*ranks, together)?;
        }
        let observers = recording.among(&self.observers);
        let place = self.settings_for(allowance, &observers);
        let settings = Settings {
            devices: match plan.packs_on_devices() {
                true => place.devices,
                false => &[],
            },
            ..place.clone()
        };
        let mut module = ModuleSink {
            weights: Weights::new(self.devices.all[0].clone(), plan.dtype)
                .with_kv_cache(self.config.place.kv_cache_dtype)
                .computing(plan.compute),
            devices: &self.devices.all,
            settings: &place,
            shared: self.shared.as_ref(),
            stream: self.stream(&plan)?,
            shares: BTreeMap::new(),
        };
        let streamed = module.stream.as_ref().and_then(Streamer::tally);
        let (timings, verified, rank) = match &self.config.pack.verify {
            None => {
                let (timings, rank) = self.run_as_rank(&mut plan, &mut module, &settings)?;
                (timings, None, rank)
            }
            Some(config) => {
                let (timings, report) =
                    self.run_verified(&mut plan, &mut module, config, &settings)?;
                (timings, Some(report), None)
            }
        };

        let mut model = self.build::<A>(config, &plan, module, divided)?;
        let adapters = self.adapt(&mut model)?;
        // A device works on its own: an error of an earlier operation may only be reported now.
        for device in &self.devices.all {
            device.sync().map_err(|error| TargetError::Device {
                target: self.target.name,
                reason: format!("{error:?}"),
            })?;
        }

        let mut report = self.report(&plan, allowance, &timings, recording);
        (report.verified, report.rank) = (verified, rank);
        report.streamed = streamed;
        finish(&report, &observers)?;
        tracing::info!(seconds = report.seconds, tensors = report.tensors, "loaded");
        Ok(Loaded {
            model,
            adapters,
            new_blocks: self.new_blocks.clone(),
            report,
        })
    }
}
