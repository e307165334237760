//! Tensors that are carried over as they are stored.

use rayon::ThreadPool;

use super::{
    super::{
        error::PipelineError,
        finished::{Finished, RowBatch},
        tile::SourceTile,
    },
    Completed, Convert,
};
use crate::plan::Step;

/// Hands on the bytes of each tile, or collects all of them.
pub(crate) struct Carried {
    by_rows: bool,
    bytes: Vec<u8>,
}

impl Carried {
    pub(crate) fn new(by_rows: bool) -> Self {
        Self {
            by_rows,
            bytes: Vec::new(),
        }
    }
}

impl Convert for Carried {
    fn feed(
        &mut self,
        _step: &Step,
        tile: SourceTile<'_>,
        _workers: &ThreadPool,
    ) -> Result<Option<RowBatch>, PipelineError> {
        if self.by_rows {
            return Ok(Some(RowBatch::Carried(tile.bytes().to_vec())));
        }
        self.bytes.extend_from_slice(tile.bytes());
        Ok(None)
    }

    fn finish(self: Box<Self>, _step: &Step) -> Result<Completed, PipelineError> {
        Ok(if self.by_rows {
            Completed::Rows(Vec::new())
        } else {
            Completed::Weight(Finished::Carried(self.bytes))
        })
    }
}
