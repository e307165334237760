//! Finished weights are compared with their source, and dropped.

use std::time::Instant;

use firebox_kernels::compare::Sums;

use crate::{
    observe::{Event, Observer, tell},
    pipeline::{Comparer, Finished, Original, PipelineError, Settings, Sink, SinkError},
    plan::Step,
    source::Source,
};

/// Takes the weights of a plan, in its order, and compares each with its original.
pub(crate) struct CompareSink<'a> {
    /// One for each step of the plan.
    originals: Vec<Original>,
    comparing: Comparing<'a>,
    /// Of the weights so far.
    pub(crate) sums: Vec<Sums>,
}

/// Compares finished weights, and reports each to the observers.
pub(super) struct Comparing<'a> {
    comparer: Comparer<'a>,
    observer: &'a dyn Observer,
}

impl<'a> CompareSink<'a> {
    pub(crate) fn new(
        source: &'a dyn Source,
        originals: Vec<Original>,
        settings: &'a Settings<'a>,
    ) -> Result<Self, PipelineError> {
        Ok(Self {
            originals,
            comparing: Comparing::new(source, settings)?,
            sums: Vec::new(),
        })
    }
}

impl<'a> Comparing<'a> {
    pub(super) fn new(
        source: &'a dyn Source,
        settings: &'a Settings<'a>,
    ) -> Result<Self, PipelineError> {
        Ok(Self {
            comparer: Comparer::new(source, settings)?,
            observer: settings.observer,
        })
    }

    /// Compares one tensor and reports it; `done` of `total` tensors are finished.
    pub(super) fn compare(
        &self,
        step: &Step,
        original: &Original,
        weight: &Finished,
        [done, total]: [usize; 2],
    ) -> Result<Sums, PipelineError> {
        let started = Instant::now();
        let sums = self.comparer.sums(step, original, weight)?;
        let verified = Event::Verified {
            step,
            stats: &sums.stats(),
            seconds: started.elapsed(),
        };
        tell(self.observer, &verified, done, total)?;
        Ok(sums)
    }
}

impl Sink for CompareSink<'_> {
    fn place(&mut self, step: &Step, weight: Finished) -> Result<(), SinkError> {
        let (original, done) = (&self.originals[self.sums.len()], self.sums.len());
        let total = self.originals.len();
        let sums = self
            .comparing
            .compare(step, original, &weight, [done, total])?;
        self.sums.push(sums);
        Ok(())
    }
}
