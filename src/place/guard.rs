//! Verifying during a load: a weight beyond the limits is replaced by a fallback before it is placed.

use firebox_kernels::compare::{Stats, Sums};

use super::{VerifyError, compare::Comparing};
use crate::{
    config::VerifyConfig,
    observe::{Event, Flow},
    pipeline::{
        self, Comparer, Finished, InFlight, Original, PipelineError, Settings, Sink, SinkError,
    },
    plan::{Action, Plan, Step},
    source::Source,
};

/// Hands weights that are within the limits on to another sink.
pub(crate) struct Guard<'a> {
    inner: &'a mut dyn Sink,
    plan: &'a Plan,
    config: &'a VerifyConfig,
    source: &'a dyn Source,
    settings: &'a Settings<'a>,
    comparing: Comparing<'a>,
    /// The packed weights so far.
    pub(crate) checked: Vec<CheckedWeight>,
}

/// A weight that was compared with its source.
pub(crate) struct CheckedWeight {
    /// As it was planned.
    pub(crate) step: Step,
    pub(crate) stats: Stats,
    /// The fallback that took its place, if it was beyond the limits.
    pub(crate) fallback: Option<(Step, Stats)>,
}

impl<'a> Guard<'a> {
    pub(crate) fn new(
        inner: &'a mut dyn Sink,
        plan: &'a Plan,
        config: &'a VerifyConfig,
        (comparer, source): (Comparer<'a>, &'a dyn Source),
        settings: &'a Settings<'a>,
    ) -> Self {
        let observer = settings.observer;
        Self {
            inner,
            plan,
            config,
            source,
            settings,
            comparing: Comparing { comparer, observer },
            checked: Vec::new(),
        }
    }

    /// Hands on the weight if it is within the limits, or else the first fallback that is.
    fn check(&mut self, step: &Step, weight: Finished) -> Result<(), SinkError> {
        let (original, limits) = (Original::of(step), &self.config.limits);
        let done = [self.checked.len(), self.plan.steps.len()];
        let compare = |step: &Step, weight: &Finished| {
            let sums = self.comparing.compare(step, &original, weight, done);
            sums.map(Sums::stats)
        };
        let stats = compare(step, &weight)?;
        self.comparing.comparer.finished(self.checked.len());
        let beyond = limits.beyond(&stats);
        let mut checked = CheckedWeight {
            step: step.clone(),
            stats,
            fallback: None,
        };
        if beyond.is_empty() {
            self.checked.push(checked);
            return self.inner.place(step, weight);
        }
        // The fallback may need its memory.
        drop(weight);
        for quant in &self.config.fallbacks {
            let Some(step) = step.instead(quant, self.plan.dense_dtype(step)) else {
                continue;
            };
            let weight = self.pack(&step)?;
            let stats = compare(&step, &weight)?;
            if limits.beyond(&stats).is_empty() {
                checked.fallback = Some((step.clone(), stats));
                self.checked.push(checked);
                return self.inner.place(&step, weight);
            }
        }
        let error = VerifyError::Beyond {
            tensor: step.slot.name.clone(),
            quant: step.quant().asked().to_string(),
            beyond,
            tried: self.config.fallbacks.len(),
        };
        Err(SinkError::new(&*step.slot.name, error))
    }

    /// Reads and packs one weight beside the load, with few bytes in flight.
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
        self.check(step, weight)
    }
}
