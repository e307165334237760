//! Weights that stay packed as the checkpoint has them.

use rayon::ThreadPool;

use super::{
    super::{
        error::PipelineError,
        finished::{Finished, RowBatch},
        tile::SourceTile,
    },
    Completed, Convert,
};
use crate::{dialect::Adopt, plan::Step, source::TensorInfo};

/// Collects the tensors of a packed weight.
pub(crate) struct Adopted {
    adopt: Adopt,
    /// The bytes of each tensor, in words.
    tensors: Vec<Vec<u32>>,
}

impl Adopted {
    pub(crate) fn new(adopt: &Adopt) -> Self {
        let words = |tensor: &TensorInfo| vec![0; tensor.bytes().div_ceil(4) as usize];
        Self {
            tensors: adopt.parts.iter().map(words).collect(),
            adopt: adopt.clone(),
        }
    }
}

impl Convert for Adopted {
    fn feed(
        &mut self,
        _step: &Step,
        tile: SourceTile<'_>,
        _workers: &ThreadPool,
    ) -> Result<Option<RowBatch>, PipelineError> {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut self.tensors[tile.pass]);
        bytes[tile.first_row..][..tile.bytes().len()].copy_from_slice(tile.bytes());
        Ok(None)
    }

    fn finish(self: Box<Self>, step: &Step) -> Result<Completed, PipelineError> {
        let packed = self.adopt.assemble(step.matrix(), self.tensors)?;
        Ok(Completed::Weight(Finished::Packed(packed)))
    }
}
