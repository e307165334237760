//! Dense values that the host packs.

use firebox_kernels::{format::Packed, packer::Packer};
use rayon::ThreadPool;

use super::{
    super::{
        error::PipelineError,
        finished::{Finished, RowBatch},
        pages,
        tile::SourceTile,
    },
    Completed, Convert, scale,
};
use crate::plan::{Action, Step};

/// Collects the whole weight.
pub(crate) struct PackWhole {
    packer: Box<dyn Packer>,
    /// Of the whole weight.
    words: Vec<u32>,
    /// Number of words that are chosen already.
    done: usize,
}

impl PackWhole {
    pub(crate) fn new(step: &Step, packer: Box<dyn Packer>) -> Result<Self, PipelineError> {
        let words = packer.format().words_len(packer.shape());
        Ok(Self {
            packer,
            words: pages::zeros(step, words)?,
            done: 0,
        })
    }
}

impl Convert for PackWhole {
    fn passes(&self) -> usize {
        self.packer.passes()
    }

    fn tile_rows(&self) -> [usize; 2] {
        [self.packer.tile_rows(), usize::MAX]
    }

    fn feed(
        &mut self,
        step: &Step,
        mut tile: SourceTile<'_>,
        workers: &ThreadPool,
    ) -> Result<Option<RowBatch>, PipelineError> {
        scale(step, &mut tile, workers);
        let len = words_len(&*self.packer, &tile);
        let words = &mut self.words[self.done..][..len];
        self.done += len;
        let (pass, first_row) = (tile.pass, tile.first_row);
        workers.install(|| self.packer.feed(pass, first_row, tile.bytes(), words));
        Ok(None)
    }

    fn finish(self: Box<Self>, step: &Step) -> Result<Completed, PipelineError> {
        let (format, shape) = (self.packer.format(), self.packer.shape());
        let scales = scales(self.packer, step)?;
        let packed = Packed::new(format, shape, self.words, scales);
        let packed = packed.map_err(|source| PipelineError::Format {
            tensor: step.slot.name.clone(),
            source,
        })?;
        Ok(Completed::Weight(Finished::Packed(packed)))
    }
}

/// Hands on the words of each tile.
pub(crate) struct PackRows {
    packer: Box<dyn Packer>,
}

impl PackRows {
    pub(crate) fn new(packer: Box<dyn Packer>) -> Self {
        Self { packer }
    }
}

impl Convert for PackRows {
    fn passes(&self) -> usize {
        self.packer.passes()
    }

    fn tile_rows(&self) -> [usize; 2] {
        [self.packer.tile_rows(), usize::MAX]
    }

    fn feed(
        &mut self,
        step: &Step,
        mut tile: SourceTile<'_>,
        workers: &ThreadPool,
    ) -> Result<Option<RowBatch>, PipelineError> {
        scale(step, &mut tile, workers);
        let mut words = pages::zeros(step, words_len(&*self.packer, &tile))?;
        let (pass, first_row, rows) = (tile.pass, tile.first_row, tile.rows);
        workers.install(|| {
            self.packer.feed(pass, first_row, tile.bytes(), &mut words);
        });
        Ok((!words.is_empty()).then_some(RowBatch::Words { rows, words }))
    }

    fn finish(self: Box<Self>, step: &Step) -> Result<Completed, PipelineError> {
        scales(self.packer, step).map(Completed::Rows)
    }
}

/// Number of words that a packer makes of a tile. It chooses them in its last pass.
fn words_len(packer: &dyn Packer, tile: &SourceTile<'_>) -> usize {
    if tile.pass + 1 < packer.passes() {
        return 0;
    }
    let [_, cols] = packer.shape();
    packer.format().words_len([tile.rows, cols])
}

/// The scales. A packer may be custom, so its format and shape are compared with the plan's.
fn scales(packer: Box<dyn Packer>, step: &Step) -> Result<Vec<u32>, PipelineError> {
    let (format, shape) = (packer.format(), packer.shape());
    match &step.action {
        Action::Pack(_, planned) if (*planned, step.matrix()) == (format, shape) => {
            Ok(packer.finish())
        }
        _ => Err(PipelineError::NotAsPlanned {
            tensor: step.slot.name.clone(),
            format,
            shape,
        }),
    }
}
