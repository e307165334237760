//! Reading ahead: tensors in plan order, cut into tiles of whole rows.

use std::time::{Duration, Instant};

use crossbeam_channel::{SendError, Sender};

use burn::tensor::Bytes;

use super::{
    PipelineError, Settings,
    budget::{Budget, Loan, Permit},
    convert::Converter,
    staging::Staging,
};
use crate::{
    plan::{Plan, Step, Stored},
    source::{Source, TensorInfo},
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
    /// How often the tensor was read before, or which part of a packed weight this is of.
    pub(super) pass: usize,
    pub(super) first_row: usize,
    pub(super) rows: usize,
    pub(super) seconds: Duration,
    memory: Memory<'a>,
}

/// What a tile is in.
enum Memory<'a> {
    /// A buffer that is used again.
    Host(Loan<'a>),
    /// A buffer that a device takes, and its share of the budget. The last word is filled up with zeros.
    Staged(Bytes, Permit<'a>),
}

impl<'a> Tile<'a> {
    pub(super) fn bytes(&self) -> &[u8] {
        match &self.memory {
            Memory::Host(loan) => loan.bytes(),
            Memory::Staged(bytes, _) => bytes,
        }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::Host(loan) => loan.bytes_mut(),
            Memory::Staged(bytes, _) => bytes,
        }
    }

    /// The tile's bytes for a device, in whole words, and what to hold until it has taken them.
    pub(super) fn into_staged(self) -> (Bytes, Permit<'a>) {
        match self.memory {
            Memory::Staged(bytes, permit) => (bytes, permit),
            Memory::Host(_) => unreachable!("tiles of a converter that uploads are staged"),
        }
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
    settings: &Settings<'_>,
    budget: &'a Budget,
    messages: Sender<Message<'a>>,
) {
    let reader = Reader {
        source,
        settings,
        staging: settings.device.map(Staging::new),
        budget,
        messages: &messages,
    };
    for step in &plan.steps {
        match reader.tensor(step) {
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

struct Reader<'a, 'r> {
    source: &'r dyn Source,
    settings: &'r Settings<'r>,
    staging: Option<Staging>,
    budget: &'a Budget,
    messages: &'r Sender<Message<'a>>,
}

impl<'a> Reader<'a, '_> {
    /// The outer error ends the reader in silence, the inner one is told.
    fn tensor(&self, step: &Step) -> Result<Result<(), PipelineError>, Abandoned> {
        let name = || step.slot.name.clone();
        let converter = match Converter::new(step, self.settings) {
            Ok(converter) => converter,
            Err(error) => return Ok(Err(error)),
        };
        // A packed weight is read as its parts are stored: their rows are bytes.
        let passes: Vec<(&TensorInfo, usize, usize)> = match &step.source {
            Stored::Plain(float) => {
                let [rows, cols] = step.matrix();
                vec![(&step.parts[0], rows, cols * float.size()); converter.passes()]
            }
            Stored::Packed(_) => {
                let parts = step.parts.iter();
                parts.map(|part| (part, part.bytes() as usize, 1)).collect()
            }
        };
        let (together, uploads) = (converter.tile_rows(), converter.uploads());
        self.messages.send(Message::Begin(converter))?;

        for (pass, (tensor, rows, row_bytes)) in passes.into_iter().enumerate() {
            let tile_rows = tile_rows(rows, row_bytes, together, self.budget.max());
            for first_row in (0..rows).step_by(tile_rows) {
                let rows = tile_rows.min(rows - first_row);
                let len = rows * row_bytes;
                let mut memory = self.memory(len, uploads)?;
                let offset = tensor.range.start + (first_row * row_bytes) as u64;
                let started = Instant::now();
                let bytes = match &mut memory {
                    Memory::Host(loan) => loan.bytes_mut(),
                    Memory::Staged(bytes, _) => &mut bytes[..len],
                };
                if let Err(source) = self.source.read_at(&tensor.file, offset, bytes) {
                    return Ok(Err(PipelineError::Read {
                        tensor: name(),
                        source,
                    }));
                }
                let seconds = started.elapsed();
                self.messages.send(Message::Tile(Tile {
                    pass,
                    first_row,
                    rows,
                    seconds,
                    memory,
                }))?;
            }
        }
        self.messages.send(Message::End)?;
        Ok(Ok(()))
    }

    fn memory(&self, len: usize, uploads: bool) -> Result<Memory<'a>, Abandoned> {
        match &self.staging {
            Some(staging) if uploads => {
                let permit = self.budget.permit(len).ok_or(Abandoned)?;
                Ok(Memory::Staged(staging.buffer(len), permit))
            }
            _ => self.budget.borrow(len).map(Memory::Host).ok_or(Abandoned),
        }
    }
}

/// Rows of a tile: about [`TILE_BYTES`] or an eighth of the budget, so that several are in flight, in
/// multiples of what has to stay together and not more than `most`.
fn tile_rows(rows: usize, row_bytes: usize, [together, most]: [usize; 2], budget: u64) -> usize {
    // A method of the caller's own may promise nonsense.
    let together = together.max(1);
    let wanted = TILE_BYTES.min(budget / 8) as usize / row_bytes.max(1);
    (wanted / together * together).clamp(together, rows.min(most).max(together))
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
        // rows, bytes a row, together and most, budget -> rows a tile
        for (rows, row_bytes, [together, most], budget, expected) in [
            (4096, 8192, [1, usize::MAX], 256 * MIB, 512),
            (4096, 8192, [128, usize::MAX], 256 * MIB, 512),
            (4096, 8192, [300, usize::MAX], 256 * MIB, 300),
            (4096, 8192, [1, usize::MAX], 8 * MIB, 128),
            (4096, 8192, [128, usize::MAX], MIB, 128),
            (4096, 8192, [16, 100], 256 * MIB, 100),
            (3, 8192, [1, usize::MAX], 256 * MIB, 3),
            (100, 2, [64, usize::MAX], 256 * MIB, 100),
            (0, 8, [1, usize::MAX], 256 * MIB, 1),
            (1, 1 << 30, [1, usize::MAX], 256 * MIB, 1),
        ] {
            let tile = tile_rows(rows, row_bytes, [together, most], budget);
            assert_eq!(
                tile, expected,
                "{rows} rows of {row_bytes} bytes by {together}"
            );
        }
    }
}
