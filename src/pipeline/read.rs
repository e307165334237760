//! Reading ahead: tensors in plan order, cut into tiles of whole rows.

use std::time::{Duration, Instant};

use crossbeam_channel::{SendError, Sender};

use super::{
    PipelineError,
    budget::{Budget, Loan},
    convert::Converter,
};
use crate::{
    plan::{Plan, Step},
    source::Source,
};

/// What the reader hands over: `Begin Tile* End` for every tensor, in plan order, or `Failed` and
/// nothing more.
pub(super) enum Message<'a> {
    Begin(Converter),
    Tile(Tile<'a>),
    End,
    Failed(PipelineError),
}

/// Some rows of a tensor, as the checkpoint stores them.
pub(super) struct Tile<'a> {
    pub(super) pass: usize,
    pub(super) first_row: usize,
    pub(super) seconds: Duration,
    loan: Loan<'a>,
}

impl Tile<'_> {
    pub(super) fn bytes(&self) -> &[u8] {
        self.loan.bytes()
    }
}

/// Nobody listens any more: the converter has failed or was cancelled.
struct Abandoned;

impl<T> From<SendError<T>> for Abandoned {
    fn from(_: SendError<T>) -> Self {
        Self
    }
}

/// Reads every tensor of `plan`, never more than `budget` ahead.
pub(super) fn read<'a>(
    plan: &Plan,
    source: &dyn Source,
    budget: &'a Budget,
    messages: Sender<Message<'a>>,
) {
    for step in &plan.steps {
        match tensor(step, source, budget, &messages) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                // Whether anybody still listens does not matter: this was the last message.
                let _ = messages.send(Message::Failed(error));
                return;
            }
            Err(Abandoned) => return,
        }
    }
}

/// The outer error ends the reader in silence, the inner one is told.
fn tensor<'a>(
    step: &Step,
    source: &dyn Source,
    budget: &'a Budget,
    messages: &Sender<Message<'a>>,
) -> Result<Result<(), PipelineError>, Abandoned> {
    let name = || step.slot.name.clone();
    let converter = match Converter::new(step) {
        Ok(converter) => converter,
        Err(source) => {
            return Ok(Err(PipelineError::Format {
                tensor: name(),
                source,
            }));
        }
    };
    let [rows, cols] = step.matrix();
    let row_bytes = cols * step.source.size();
    let tile_rows = tile_rows(rows, row_bytes, converter.tile_rows(), budget.max());
    let passes = converter.passes();
    messages.send(Message::Begin(converter))?;

    for pass in 0..passes {
        for first_row in (0..rows).step_by(tile_rows) {
            let len = tile_rows.min(rows - first_row) * row_bytes;
            let mut loan = budget.borrow(len).ok_or(Abandoned)?;
            let offset = step.range.start + (first_row * row_bytes) as u64;
            let started = Instant::now();
            if let Err(source) = source.read_at(&step.file, offset, loan.bytes_mut()) {
                return Ok(Err(PipelineError::Read {
                    tensor: name(),
                    source,
                }));
            }
            let seconds = started.elapsed();
            messages.send(Message::Tile(Tile {
                pass,
                first_row,
                seconds,
                loan,
            }))?;
        }
    }
    messages.send(Message::End)?;
    Ok(Ok(()))
}

/// Rows of a tile: about [`TILE_BYTES`] or an eighth of the budget, so that several are in flight, in
/// multiples of what has to stay together.
fn tile_rows(rows: usize, row_bytes: usize, together: usize, budget: u64) -> usize {
    // A method of the caller's own may promise nonsense.
    let together = together.max(1);
    let wanted = TILE_BYTES.min(budget / 8) as usize / row_bytes.max(1);
    (wanted / together * together).clamp(together, rows.max(together))
}

/// Large enough that a read costs little besides its bytes, small enough to stay in the cache of
/// today's processors until it is converted.
const TILE_BYTES: u64 = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    /// Would catch tiles that split what has to stay together, or that do not grow with narrow rows.
    #[test]
    fn tiles_are_whole_multiples_of_what_stays_together() {
        const MIB: u64 = 1 << 20;
        // rows, bytes a row, together, budget -> rows a tile
        for (rows, row_bytes, together, budget, expected) in [
            (4096, 8192, 1, 256 * MIB, 512),
            (4096, 8192, 128, 256 * MIB, 512),
            (4096, 8192, 300, 256 * MIB, 300),
            (4096, 8192, 1, 8 * MIB, 128),
            (4096, 8192, 128, MIB, 128),
            (3, 8192, 1, 256 * MIB, 3),
            (100, 2, 64, 256 * MIB, 100),
            (0, 8, 1, 256 * MIB, 1),
            (1, 1 << 30, 1, 256 * MIB, 1),
        ] {
            let tile = tile_rows(rows, row_bytes, together, budget);
            assert_eq!(
                tile, expected,
                "{rows} rows of {row_bytes} bytes by {together}"
            );
        }
    }
}
