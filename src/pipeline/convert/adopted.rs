//! Weights that stay packed as the checkpoint has them.

use firebox_kernels::format::{Format, Packed};
use rayon::ThreadPool;

use super::{
    super::{
        error::PipelineError,
        finished::{Finished, RowBatch},
        pages,
        tile::SourceTile,
    },
    Completed, Convert,
};
use crate::{
    dialect::{Adopt, Excerpt},
    plan::{Every, Step},
};

/// Collects the tensors of a packed weight.
pub(crate) struct Adopted {
    adopt: Adopt,
    /// The bytes of each tensor, in words.
    tensors: Vec<Vec<u32>>,
}

impl Adopted {
    pub(crate) fn new(step: &Step, adopt: &Adopt) -> Result<Self, PipelineError> {
        let words = |bytes: usize| pages::zeros(step, bytes.div_ceil(size_of::<u32>()));
        let lens: Vec<usize> = match adopt.excerpts() {
            Some(excerpts) => excerpts.iter().flat_map(Excerpt::lens).collect(),
            None => adopt
                .parts
                .iter()
                .map(|part| part.bytes() as usize)
                .collect(),
        };
        Ok(Self {
            tensors: lens.into_iter().map(words).collect::<Result<_, _>>()?,
            adopt: adopt.clone(),
        })
    }
}

/// Some rows of a weight whose rows are whole words of codes and whole bytes of scales.
fn some_rows(all: &Packed, every: Every, shape @ [rows, cols]: [usize; 2]) -> Packed {
    let of = |words: &[u32], len: usize| -> Vec<u32> {
        let bytes: &[u8] = bytemuck::cast_slice(words);
        let each = len / all.shape[0].max(1);
        let rows = (0..rows).map(|row| every.row(row) * each);
        let mut some: Vec<u8> = rows
            .flat_map(|start| &bytes[start..start + each])
            .copied()
            .collect();
        some.resize(some.len().next_multiple_of(size_of::<u32>()), 0);
        bytemuck::pod_collect_to_vec(&some)
    };
    let codes = match all.format {
        Format::Gguf(kind) => all.shape[0] * kind.row_bytes(cols),
        format => all.shape[0] * cols * format.code_bits() / 8,
    };
    let scales = match all.format {
        Format::Micro(micro) => all.shape[0] * (cols / micro.group()),
        _ => all.scales.len() * size_of::<u32>(),
    };
    Packed {
        format: all.format,
        shape,
        words: of(&all.words, codes),
        scales: of(&all.scales, scales),
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
        let [rows, cols] = step.matrix();
        let packed = match step.every {
            None if self.adopt.excerpts().is_some() => self.adopt.assemble_slice(self.tensors)?,
            None => self.adopt.assemble([rows, cols], self.tensors)?,
            Some(every) => {
                let all = [every.of, cols];
                some_rows(
                    &self.adopt.assemble(all, self.tensors)?,
                    every,
                    [rows, cols],
                )
            }
        };
        Ok(Completed::Weight(Finished::Packed(packed)))
    }
}
