//! The ends of the pipeline, to which it hands finished weights.

use super::{
    error::SinkError,
    finished::{Finished, RowBatch},
};
use crate::plan::Step;

/// The end of the pipeline: it takes finished weights and makes a module, files, or anything else of them.
pub trait Sink {
    /// Takes one finished weight. Called in the order of the plan, from the thread that runs the
    /// pipeline.
    ///
    /// # Errors
    ///
    /// [`SinkError`], which stops the run; nothing more is read after it.
    fn place(&mut self, step: &Step, weight: Finished) -> Result<(), SinkError>;

    /// This sink as one that takes the rows of this weight batch by batch, so that the weight is never whole in memory;
    /// `None` to get it whole. Asked before anything is read, and again for every batch. Weights that stay
    /// packed as the checkpoint has them, and weights that a device packs, always come whole.
    fn rows_of(&mut self, _step: &Step) -> Option<&mut dyn RowSink> {
        None
    }
}

/// A sink that can take a weight batch by batch.
pub trait RowSink: Sink {
    /// Takes the next rows of a weight. Called as [`place`](Sink::place) is.
    ///
    /// # Errors
    ///
    /// As [`place`](Sink::place).
    fn rows(&mut self, step: &Step, rows: RowBatch) -> Result<(), SinkError>;

    /// Takes the scales of a weight whose rows were all taken. A dense weight has no scales.
    ///
    /// # Errors
    ///
    /// As [`place`](Sink::place).
    fn end(&mut self, step: &Step, scales: Vec<u32>) -> Result<(), SinkError>;
}
