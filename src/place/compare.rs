//! Finished weights are compared with their source, and dropped.

use std::time::Instant;

use firebox_kernels::compare::Sums;

use crate::{
    observe::{Event, Observer, tell},
    pipeline::{Comparer, Finished, Original, PipelineError, Sink, SinkError},
    plan::Step,
};

/// Takes the weights of a plan, in its order, and compares each with its original.
pub(crate) struct CompareSink<'a> {
    /// One for each step of the plan.
    originals: &'a [Original],
    comparing: Comparing<'a>,
    /// Of the weights so far.
    pub(crate) sums: Vec<Sums>,
}

/// Compares finished weights, and reports each to the observers.
pub(super) struct Comparing<'a> {
    pub(super) comparer: Comparer<'a>,
    pub(super) observer: &'a dyn Observer,
}

impl<'a> CompareSink<'a> {
    pub(crate) fn new(
        comparer: Comparer<'a>,
        originals: &'a [Original],
        observer: &'a dyn Observer,
    ) -> Self {
        Self {
            originals,
            comparing: Comparing { comparer, observer },
            sums: Vec::new(),
        }
    }
}

impl Comparing<'_> {
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
        self.comparing.comparer.finished(done);
        self.sums.push(sums);
        Ok(())
    }
}
