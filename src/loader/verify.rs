//! Verifying: a plan is carried out as a load would, into a sink that compares.

use firebox_kernels::compare::{Stats, Sums};

use super::engine::{Engine, finish};
use crate::{
    config::{Limits, VerifyConfig},
    dialect,
    error::Error,
    pipeline::{
        Original, Pieces, PipelineError, Settings, Sink, SourceValues, StepReads, Timing, comparing,
    },
    place::{
        CheckedWeight, CompareSink, Guard, VerifyError, folder as save, refuse_packed, refused,
    },
    plan::{Action, Plan, Scaling, Step, Stored, made_of},
    quant::QuantSpec,
    report::{Fallback, TensorCheck, VerifyReport, check},
    source::Checkpoint,
};

impl Engine {
    /// Compares the dequantized weights of this checkpoint with the tensors of `dense`.
    pub(super) fn verify_against(
        &self,
        mut plan: Plan,
        dense: &Checkpoint,
        limits: &Limits,
    ) -> Result<VerifyReport, Error> {
        self.check_alone("a comparison")?;
        // Values of other types are not compared.
        plan.steps
            .retain(|step| !matches!(step.stored, Stored::Other(_)));
        save::as_stored(&mut plan);
        self.check_tensors(&plan)?;
        let against = dense.source().describe();
        let originals = plan
            .steps
            .iter()
            .map(|step| original(step, dense, &against));
        let originals = originals.collect::<Result<_, Error>>()?;
        let stats = self.compare(&mut plan, dense, originals)?;
        Ok(report(&plan, Some(against), &stats, limits))
    }

    /// Carries out the plan, verifies what is packed before `inner` gets it, and leaves in the plan what became of it.
    pub(super) fn run_verified(
        &self,
        plan: &mut Plan,
        inner: &mut dyn Sink,
        config: &VerifyConfig,
        settings: &Settings<'_>,
    ) -> Result<(Vec<Timing>, VerifyReport), Error> {
        if !plan.links.is_empty() {
            return Err(VerifyError::Balanced.into());
        }
        refuse_packed(&plan.steps)?;
        let planned = plan.clone();
        let source = &**self.checkpoint().source();
        let packed = planned.steps.iter();
        let packed = packed.filter(|step| matches!(step.action, Action::Pack(..)));
        let originals = packed.map(StepReads::of_pass);
        let (ran, checked) = comparing(source, originals, settings, |comparer| {
            let mut guard = Guard::new(inner, &planned, config, (comparer, source), settings);
            let ran = self.run(plan, &mut guard, settings);
            Ok::<_, PipelineError>((ran, guard.checked))
        })?;
        let timings = ran.map_err(|error| match error {
            Error::Pipeline(error) => refused(error).map_or_else(Error::Pipeline, Error::Verify),
            error => error,
        })?;
        let report = VerifyReport {
            model: plan.model.clone(),
            against: None,
            target: plan.target().to_owned(),
            limits: config.limits,
            tensors: checked
                .iter()
                .map(|checked| row(checked, &config.limits))
                .collect(),
        };
        for (instead, _) in checked.into_iter().filter_map(|checked| checked.fallback) {
            let mut steps = plan.steps.iter_mut();
            if let Some(step) = steps.find(|step| step.slot.name == instead.slot.name) {
                *step = instead;
            }
        }
        Ok((timings, report))
    }

    /// Compares the weights that `plan` packs with their source, and chooses fallbacks.
    pub(super) fn verify_plan(
        &self,
        mut plan: Plan,
        config: &VerifyConfig,
        module_of: &dyn Fn(&str) -> String,
    ) -> Result<VerifyReport, Error> {
        self.check_alone("a comparison")?;
        if self.config.pack.presinq {
            return Err(VerifyError::Balanced.into());
        }
        self.merge(&mut plan, module_of)?;
        self.check_tensors(&plan)?;
        refuse_packed(&plan.steps)?;
        plan.steps
            .retain(|step| matches!(step.action, Action::Pack(..)));
        if plan.steps.is_empty() {
            let model = plan.model;
            return Err(VerifyError::NothingPacked { model }.into());
        }
        let originals = own(&plan.steps);
        let stats = self.compare(&mut plan, self.checkpoint(), originals)?;
        let mut report = report(&plan, None, &stats, &config.limits);
        for quant in &config.fallbacks {
            self.fall_back(&plan, quant, &mut report)?;
        }
        Ok(report)
    }

    /// Chooses `quant` for weights that are beyond the limits still, where it is within them.
    fn fall_back(
        &self,
        plan: &Plan,
        quant: &QuantSpec,
        report: &mut VerifyReport,
    ) -> Result<(), Error> {
        let (mut open, mut steps) = (Vec::new(), Vec::new());
        for (k, step) in plan.steps.iter().enumerate() {
            if !report.tensors[k].failed() {
                continue;
            }
            // What it cannot pack is left to the next.
            if let Some(step) = step.instead(quant, step.float()) {
                open.push(k);
                steps.push(step);
            }
        }
        if open.is_empty() {
            return Ok(());
        }
        let mut plan = Plan {
            steps,
            unexpected: Vec::new(),
            ..plan.clone()
        };
        let stats = if matches!(quant, QuantSpec::None) {
            let tensors = open.iter().map(|k| &report.tensors[*k]);
            tensors.map(unchanged).collect()
        } else {
            self.check_tensors(&plan)?;
            let originals = own(&plan.steps);
            self.compare(&mut plan, self.checkpoint(), originals)?
        };
        for (k, stats) in open.into_iter().zip(stats) {
            if report.limits.beyond(&stats).is_empty() {
                let quant = quant.clone();
                report.tensors[k].fallback = Some(Fallback { quant, stats });
            }
        }
        Ok(())
    }

    /// Refuses a plan that a load would refuse too, but not a model that is larger than the device: only one weight at a
    /// time is there.
    fn check_tensors(&self, plan: &Plan) -> Result<(), Error> {
        Ok(plan.check_parts()?)
    }

    /// Carries out the plan, and compares what comes of its steps with `originals` of `dense`.
    fn compare(
        &self,
        plan: &mut Plan,
        dense: &Checkpoint,
        originals: Vec<Original>,
    ) -> Result<Vec<Stats>, Error> {
        let recording = self.record();
        let observers = recording.among(&self.observers);
        let allowance = self.asked(self.config.place.strategy);
        let settings = self.settings_for(allowance, &observers);
        let reads = originals.iter().map(Original::reads);
        let source = &**dense.source();
        let (timings, sums) = comparing(source, reads, &settings, |comparer| {
            let mut sink = CompareSink::new(comparer, &originals, settings.observer);
            let timings = self.run(plan, &mut sink, &settings)?;
            Ok::<_, Error>((timings, sink.sums))
        })?;
        let report = self.report(plan, allowance, &timings, recording);
        finish(&report, &observers)?;
        Ok(sums.into_iter().map(Sums::stats).collect())
    }
}

fn report(plan: &Plan, against: Option<String>, stats: &[Stats], limits: &Limits) -> VerifyReport {
    let tensors = plan.steps.iter().zip(stats);
    VerifyReport {
        model: plan.model.clone(),
        against,
        target: plan.target().to_owned(),
        limits: *limits,
        tensors: tensors
            .map(|(step, stats)| check(step, *stats, limits))
            .collect(),
    }
}

/// The report's row of a weight that was verified during a load.
fn row(checked: &CheckedWeight, limits: &Limits) -> TensorCheck {
    let fallback = checked.fallback.as_ref();
    TensorCheck {
        fallback: fallback.map(|(step, stats)| Fallback {
            quant: step.quant().asked(),
            stats: *stats,
        }),
        ..check(&checked.step, checked.stats, limits)
    }
}

/// The numbers that each step packs.
fn own(steps: &[Step]) -> Vec<Original> {
    steps.iter().map(Original::of).collect()
}

/// The values of `dense` that the weight of `step` was made from.
fn original(step: &Step, dense: &Checkpoint, against: &str) -> Result<Original, Error> {
    let slot = &step.slot;
    let mut tensors = Vec::new();
    for origin in &slot.from {
        let (tensor, against) = (origin.tensor.clone(), against.to_owned());
        let Some(found) = dense.catalog().get(&tensor) else {
            return Err(VerifyError::Missing { tensor, against }.into());
        };
        if dialect::plain(found.dtype).is_none() {
            let found = found.dtype;
            let error = VerifyError::Dtype {
                tensor,
                against,
                found,
            };
            return Err(error.into());
        }
        if slot.from.len() == 1 && origin.is_whole() && found.shape != slot.shape {
            let error = VerifyError::Shape {
                tensor,
                against,
                found: found.shape.clone(),
                expected: slot.shape.clone(),
            };
            return Err(error.into());
        }
        tensors.push(found);
    }
    let (pieces, dtype) = made_of(slot, tensors)?;
    Ok(Original {
        values: SourceValues::Plain(Pieces::new(pieces, dtype.size())),
        dtype,
        shape: step.matrix(),
        scaling: Scaling::default(),
    })
}

/// The numbers of a weight that stays as it is stored.
fn unchanged(tensor: &TensorCheck) -> Stats {
    let lost = tensor.stats.lost_sources;
    Stats {
        max_error: 0.0,
        mean_error: 0.0,
        relative_error: 0.0,
        cosine: 1.0,
        sqnr: f64::INFINITY,
        compared: tensor.shape.iter().product::<usize>() as u64 - lost,
        saturated: 0,
        lost_sources: lost,
        lost_results: lost,
    }
}
