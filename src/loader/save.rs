//! Saving a plan: opened, decided, carried out from where an interrupted save was.

use firebox_kernels::arith::float::DType;

use super::{
    allowance::Allowance,
    engine::{Engine, explain, finish},
};
use crate::{
    adapter::AdapterError,
    config::{PackConfig, SaveConfig, To},
    dialect::has_gates_apart,
    error::Error,
    model::{Link, SWITCH, Stacks},
    observe::Observer,
    pipeline::{self, PipelineError, Settings, Timing},
    place::{
        SaveError,
        folder::{self as save, Earlier, FolderLayout, FolderSink, Identity, Journal},
    },
    plan::{ExpertFiles, Home, Plan, PlanError, Step},
    prepare,
    quant::QuantSpec,
    report::Saved,
    source::SourceExt,
};

impl Engine {
    /// Saves the weights of a plan in the types that they are stored in. `stacks` are those of dense files of the model, where
    /// an architecture knows of some; `module_of` gives the name in transformers of the module at a path.
    pub(super) fn save_plan(
        &self,
        mut plan: Plan,
        to: &SaveConfig,
        stacks: Option<Stacks>,
        module_of: &dyn Fn(&str) -> String,
    ) -> Result<Saved, Error> {
        self.check_alone("a save")?;
        plan.check_complete()?;
        self.carry_rest(&mut plan)?;
        let merged = self.merge(&mut plan, module_of)?;
        save::adapt(&mut plan, to);
        if let Some(dtype) = self.config.pack.dtype.filter(|_| merged > 0) {
            plan.merge_in(dtype);
        }
        if self.config.pack.dtype.is_none() {
            // Dequantized weights get the type that config.json names, but for those that are a source: they are exact.
            plan.give_back(match self.config.pack.requantize {
                true => DType::F32,
                false => self.checkpoint().float_dtype(),
            });
        }
        let policy = &self.config.pack.policy;
        save::as_asked(&mut plan, policy);
        let dialect = save::dialect_of(&plan, to, self.checkpoint().float_dtype());
        if let Some(quant) = policy.dense_type().filter(|_| dialect != Some(To::Gguf)) {
            let quant = quant.to_string();
            return Err(PlanError::DenseType { quant }.into());
        }
        let candidates = to.named().unwrap_or(To::Mlx);
        let identity = Identity::new(&plan, &self.config, to, self.checkpoint())?;
        self.write_plan(plan, to, Some(candidates), &identity, |plan| {
            self.lay_out(plan, to, stacks)?;
            let merges = |step: &&Step| step.merge.is_some();
            match plan.steps.iter().filter(merges).count() {
                after if after == merged => Ok(()),
                after => Err(AdapterError::Stacked {
                    before: merged,
                    after,
                }
                .into()),
            }
        })
    }

    /// Gives the matrices of experts the tensors that the dialect has for them.
    fn lay_out(
        &self,
        plan: &mut Plan,
        to: &SaveConfig,
        stacks: Option<Stacks>,
    ) -> Result<(), Error> {
        let float = self.checkpoint().float_dtype();
        let dialect = save::dialect_of(plan, to, float);
        match (dialect, stacks) {
            (Some(To::Mlx | To::Gguf), Some(stacks)) => {
                plan.split_experts(stacks, ExpertFiles::Switch)?;
            }
            // llama.cpp multiplies by matrices as the model has them.
            (Some(To::Gguf), None) => {}
            (Some(to), Some(stacks)) if plan.takes_apart(to, float) => {
                let apart = has_gates_apart(to, stacks);
                plan.split_experts(stacks, ExpertFiles::Each { apart })?;
            }
            (_, Some(stacks)) => {
                plan.turn_back()?;
                plan.join_experts(stacks, dialect == Some(To::Mxfp4))?;
                self.request().sort_steps(&mut plan.steps);
            }
            _ => plan.turn_back()?,
        }
        if ![Some(To::Mlx), Some(To::Gguf)].contains(&dialect) {
            return Ok(plan.check_stacks_of_others().map_err(SaveError::from)?);
        }
        let switch = stacks.map_or(SWITCH, |stacks| stacks.switch);
        Ok(plan.stack_experts(switch, &self.request())?)
    }

    /// Saves a plan. Weights that are left open are chosen for from what `candidates` holds side by side, and then plain
    /// ones get the types that `adapt` gives them.
    pub(super) fn write_plan(
        &self,
        mut plan: Plan,
        to: &SaveConfig,
        candidates: Option<To>,
        identity: &Identity,
        adapt: impl FnOnce(&mut Plan) -> Result<(), Error>,
    ) -> Result<Saved, Error> {
        let recording = self.record();
        let observers = recording.among(&self.observers);
        let output = save::output(to)?;
        let found = save::find(&*output, to, identity)?;
        match found.becomes() {
            Some(becomes) => self.decide_as(&mut plan, becomes)?,
            None => self.decide(&mut plan, candidates)?,
        }
        // One weight at a time is kept.
        let kept = plan.steps.iter().map(Step::bytes_finished).max();
        self.choose_strategy(&mut plan, kept.unwrap_or(0));
        plan.send(Home::Disk);
        let becomes: Vec<String> = plan.steps.iter().map(save::becomes).collect();
        adapt(&mut plan)?;
        let gguf = self.gguf_file(&mut plan, to)?;
        let layout = FolderLayout::new(to, &plan, self.checkpoint().float_dtype(), gguf)?;
        let by_rows = |step: &Step| layout.takes_rows(step);
        let beside = output.admit(layout.largest(), layout.late())?;
        let allowance = self.allowance_beside(&plan, &by_rows, beside)?;
        let mut journal = match found {
            Earlier::Empty => Journal::create(&*output)?,
            Earlier::Interrupted(journal) => journal,
            Earlier::Complete(record) => {
                let nothing = vec![Timing::default(); plan.steps.len()];
                let report = self.report(&plan, allowance, &nothing, recording);
                finish(&report, &observers)?;
                return Ok(Saved::new(
                    record.saved(to.folder(), plan.steps.len()),
                    report,
                ));
            }
        };
        if !journal.is_begun() {
            journal.begin(&plan.model, identity, becomes)?;
        }
        let mut folder = FolderSink::open(layout, &*output, &plan, journal)?;

        let ran = self.run_rest(&mut plan, &mut folder, allowance, &observers);
        if ran.is_err() && self.checkpoint().source().unchanged().is_err() {
            // Weights in the folder may be of two states of the source.
            folder.forget()?;
        }
        let (done, total) = (folder.done(), plan.steps.len());
        let saved = ran.and_then(|timings| {
            let report = self.report(&plan, allowance, &timings, recording);
            Ok(Saved::new(folder.finish(self.checkpoint())?, report))
        });
        let saved = saved.map_err(|error| match error {
            // The same again would end in the same way.
            Error::Pipeline(PipelineError::Format { .. }) => error,
            error => Error::Interrupted {
                folder: to.folder().to_owned(),
                done,
                total,
                source: Box::new(error),
            },
        })?;
        // Every file is written: an observer that cancels now only changes the result.
        finish(&saved.report, &observers)?;
        Ok(saved)
    }

    /// Carries out what is not in the folder yet. Timings are those of all steps.
    fn run_rest(
        &self,
        plan: &mut Plan,
        folder: &mut FolderSink<'_>,
        allowance: Allowance,
        observer: &dyn Observer,
    ) -> Result<Vec<Timing>, Error> {
        let settings = Settings {
            packs_for_files: true,
            allocation_max: None,
            ..self.settings_for(allowance, observer)
        };
        let done = folder.resumed();
        let source = &**self.checkpoint().source();
        if done == 0 {
            return self.run(plan, folder, &settings);
        }
        let mut rest = plan.clone();
        rest.steps.drain(..done);
        let left = |name: &String| rest.steps.iter().any(|step| step.slot.name == *name);
        let open = |link: &Link| link.from.iter().chain(&link.to).any(left);
        let links: Vec<Link> = plan
            .links
            .iter()
            .filter(|link| open(link))
            .cloned()
            .collect();
        plan.links.clone_from(&links);
        rest.links = links;

        self.announce(&rest, &settings)?;
        // Factors come out as they did, and take weights that are in the folder too.
        let ran = prepare::balance(plan, source, &settings).and_then(|()| {
            rest.steps.clone_from_slice(&plan.steps[done..]);
            pipeline::run(&rest, source, folder, &settings)
        });
        let ran = ran.map_err(|error| explain(&self.observers, error.into()))?;
        source.unchanged()?;
        let taken_over = vec![Timing::default(); done];
        Ok([taken_over, ran].concat())
    }

    /// Chooses for the weights that are left open what the save that was interrupted had chosen.
    fn decide_as(&self, plan: &mut Plan, becomes: &[String]) -> Result<(), Error> {
        let PackConfig {
            policy, candidates, ..
        } = &self.config.pack;
        for (step, chosen) in plan.steps.iter_mut().zip(becomes) {
            let open = matches!(step.slot.quant(policy), QuantSpec::Auto(_));
            if !open || save::becomes(step) == *chosen {
                continue;
            }
            let named = candidates.iter().find(|quant| quant.to_string() == *chosen);
            let quant = match named {
                Some(quant) => quant.clone(),
                None => chosen.parse()?,
            };
            if step.has_values() {
                *step = step.clone().packed(&quant)?;
            }
        }
        Ok(())
    }
}
