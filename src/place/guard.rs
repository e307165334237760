//! Verifying while loading: what is within the limits passes on, what is not is packed otherwise first.

use super::{
    VerifyError,
    compare::{Comparer, Original},
    refuse_kept,
};
use crate::{
    config::VerifyConfig,
    error::Error,
    observe::{Event, Flow},
    pipeline::{self, Finished, InFlight, PipelineError, Settings, Sink, SinkError},
    plan::{Action, Plan, Step},
    report::{Fallback, TensorCheck, check},
    source::Source,
};

/// Hands on to another sink what is within the limits.
pub(crate) struct Guard<'a> {
    inner: &'a mut dyn Sink,
    plan: &'a Plan,
    config: &'a VerifyConfig,
    source: &'a dyn Source,
    settings: &'a Settings<'a>,
    comparer: Comparer<'a>,
    /// Of the packed weights so far.
    pub(crate) checks: Vec<TensorCheck>,
    /// What became of weights that were beyond the limits.
    pub(crate) instead: Vec<Step>,
    /// What the pipeline is told as a failure of its sink.
    pub(crate) failed: Option<Error>,
}

impl<'a> Guard<'a> {
    /// # Errors
    ///
    /// [`VerifyError::Balanced`] where weights are changed before they are packed, [`VerifyError::Kept`] where the
    /// checkpoint has them packed.
    pub(crate) fn new(
        inner: &'a mut dyn Sink,
        plan: &'a Plan,
        config: &'a VerifyConfig,
        source: &'a dyn Source,
        settings: &'a Settings<'a>,
    ) -> Result<Self, Error> {
        if !plan.links.is_empty() {
            return Err(VerifyError::Balanced.into());
        }
        refuse_kept(&plan.steps)?;
        Ok(Self {
            inner,
            plan,
            config,
            source,
            settings,
            comparer: Comparer::new(source, settings)?,
            checks: Vec::new(),
            instead: Vec::new(),
            failed: None,
        })
    }

    fn check(&mut self, step: &Step, weight: Finished) -> Result<(), Error> {
        let original = Original::of(step);
        let done = [self.checks.len(), self.plan.steps.len()];
        let compare = |step: &Step, weight: &Finished| {
            let sums = self.comparer.compare(step, &original, weight, done);
            sums.map(|sums| sums.stats())
        };
        let mut found = check(step, compare(step, &weight)?, &self.config.limits);
        if found.beyond.is_empty() {
            self.checks.push(found);
            return Ok(self
                .inner
                .place(step, weight)
                .map_err(PipelineError::from)?);
        }
        // Its memory may be needed for what comes in its place.
        drop(weight);
        for quant in &self.config.fallbacks {
            let Some(step) = step.instead(quant, self.plan.dtype) else {
                continue;
            };
            let weight = self.pack(&step)?;
            let stats = compare(&step, &weight)?;
            if self.config.limits.beyond(&stats).is_empty() {
                let quant = quant.clone();
                found.fallback = Some(Fallback { quant, stats });
                self.checks.push(found);
                let placed = self.inner.place(&step, weight);
                self.instead.push(step);
                return Ok(placed.map_err(PipelineError::from)?);
            }
        }
        Err(VerifyError::Beyond {
            tensor: found.name,
            quant: found.quant.to_string(),
            beyond: found.beyond,
            tried: self.config.fallbacks.len(),
        }
        .into())
    }

    /// Reads and packs one weight beside the load, with little of it in flight.
    fn pack(&self, step: &Step) -> Result<Finished, PipelineError> {
        struct One(Option<Finished>);
        impl Sink for One {
            fn place(&mut self, _: &Step, weight: Finished) -> Result<(), SinkError> {
                self.0 = Some(weight);
                Ok(())
            }
        }
        let plan = Plan {
            steps: vec![step.clone()],
            ..self.plan.clone()
        };
        let quiet = |_: &Event<'_>| Flow::Continue;
        let settings = Settings {
            in_flight: InFlight::new(2 * self.settings.tile_bytes).into(),
            observer: &quiet,
            ..self.settings.clone()
        };
        let mut one = One(None);
        pipeline::run(&plan, self.source, &mut one, &settings)?;
        Ok(one.0.expect("a plan of one step finishes one weight"))
    }
}

impl Sink for Guard<'_> {
    fn place(&mut self, step: &Step, weight: Finished) -> Result<(), SinkError> {
        if !matches!(step.action, Action::Pack(..)) {
            return self.inner.place(step, weight);
        }
        self.check(step, weight).map_err(|error| {
            let reason = error.to_string().into();
            self.failed = Some(error);
            let tensor = step.slot.name.clone();
            SinkError { tensor, reason }
        })
    }
}
