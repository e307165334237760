//! Weights that stay packed as the checkpoint has them, and stacks whose matrices are turned when they are dequantized.

use rayon::ThreadPool;

use super::{
    super::{
        dense::{Dense, Values},
        error::PipelineError,
        finished::{Finished, RowBatch},
        tile::SourceTile,
    },
    Completed, Convert,
};
use crate::{
    dialect::Adopt,
    plan::{Action, Step},
    source::TensorInfo,
};

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
        let turned = step.turned_back();
        let shape = turned.map_or(step.matrix(), |[experts, out, cols]| [experts * out, cols]);
        let packed = self.adopt.assemble(shape, self.tensors)?;
        Ok(Completed::Weight(match (turned, &step.action) {
            (Some(shape), Action::Dense(dtype)) => {
                let mut values = Values::dequantize(*dtype, &packed);
                values.turn(shape);
                Finished::Dense(Dense::Owned(values))
            }
            _ => Finished::Packed(packed),
        }))
    }
}
