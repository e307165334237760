//! What a run tells while it trains.

use core::fmt;
use std::path::Path;

use super::metrics::{EvalMetrics, StepMetrics};

/// Something that happened to a run.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum RunEvent<'a> {
    /// Training begins or goes on.
    Begun {
        /// Steps that are done.
        step: u64,
        /// Steps of the run.
        steps: u64,
    },
    /// A batch is done, and its step or its evaluation goes on. A run that is to stop here leaves all of that step out.
    Batch {
        /// Batches of the step or the evaluation that are done.
        done: usize,
        /// Batches of a step; `None` in an evaluation, whose batches are not counted beforehand.
        of: Option<usize>,
    },
    /// A step is done.
    Step(&'a StepMetrics),
    /// Perplexity was measured.
    Eval(&'a EvalMetrics),
    /// A checkpoint was written.
    Checkpoint(&'a Path),
}

impl fmt::Display for RunEvent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Begun { step: 0, steps } => write!(f, "{steps} steps to do"),
            Self::Begun { step, steps } => write!(f, "{step} of {steps} steps are done"),
            Self::Batch { done, of: Some(of) } => write!(f, "batch {done} of {of}"),
            Self::Batch { done, of: None } => write!(f, "batch {done} of the evaluation"),
            Self::Step(metrics) => {
                let speed = metrics.tokens as f64 / metrics.seconds;
                let (step, loss, lr) = (metrics.step, metrics.loss, metrics.lr);
                let norm = metrics.grad_norm;
                write!(
                    f,
                    "step {step}: loss {loss:.4}, learning rate {lr:.2e}, norm {norm:.3}, {speed:.0} trained tokens/s"
                )
            }
            Self::Eval(metrics) => {
                let (step, perplexity) = (metrics.step, metrics.eval_perplexity);
                write!(f, "after step {step}: perplexity {perplexity:.3}")
            }
            Self::Checkpoint(folder) => write!(f, "{}", folder.display()),
        }
    }
}
