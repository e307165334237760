//! Reading ahead: tensors in plan order, cut into tiles of whole rows.

use std::{ops::Range, time::Instant};

use burn::tensor::Bytes;
use crossbeam_channel::Sender;
use rayon::{ThreadPool, prelude::*};

use super::{
    PipelineError, Settings, Stop,
    convert::{Converter, Dense},
    in_flight::{Account, Loan, Permit},
    pool,
    staging::Staging,
};
use crate::{
    observe::Span,
    plan::{Plan, Step, Stored},
    source::{self, Access, Source, SourceError, TensorInfo},
};

/// What the reader hands over: for every tensor, in plan order, `Begin Tile* End`, or `Begin Filled* Whole End` where
/// it reads into the finished weight itself; or `Failed` and nothing more.
pub(super) enum Message<'a> {
    Begin(Converter),
    Tile(Tile<'a>),
    /// So much was read into the finished weight.
    Filled {
        bytes: u64,
        read: Span,
    },
    Whole(Dense),
    End,
    Failed(PipelineError),
}

/// Some rows of a tensor, as the checkpoint stores them.
pub(super) struct Tile<'a> {
    /// How often the tensor was read before, or which part of a packed weight this is of.
    pub(super) pass: usize,
    pub(super) first_row: usize,
    pub(super) rows: usize,
    pub(super) read: Span,
    memory: Memory<'a>,
}

/// What a tile is in.
enum Memory<'a> {
    /// A buffer that is used again.
    Host(Loan<'a>),
    /// A buffer that a device takes, and its share of the budget. The last word is filled up with zeros.
    Staged(Bytes, Permit<'a>),
    /// What the source has, and its share of the budget: it is in memory all the same.
    Shared(
        source::Bytes,
        #[expect(dead_code, reason = "held until the tile is dropped")] Permit<'a>,
    ),
}

impl<'a> Tile<'a> {
    pub(super) fn bytes(&self) -> &[u8] {
        match &self.memory {
            Memory::Host(loan) => loan.bytes(),
            Memory::Staged(bytes, _) => bytes,
            Memory::Shared(bytes, _) => bytes,
        }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::Host(loan) => loan.bytes_mut(),
            Memory::Staged(bytes, _) => bytes,
            Memory::Shared(..) => unreachable!("what is changed is not shared"),
        }
    }

    /// The tile's bytes for a device, in whole words, and what to hold until it has taken them.
    pub(super) fn into_staged(self) -> (Bytes, Permit<'a>) {
        match self.memory {
            Memory::Staged(bytes, permit) => (bytes, permit),
            _ => unreachable!("tiles of a converter that uploads are staged"),
        }
    }
}

/// Reads every tensor of `plan`, never more than `account` allows ahead. `whole` says which steps are finished in one
/// piece, in host memory.
pub(super) fn read<'a>(
    plan: &Plan,
    whole: &[bool],
    source: &dyn Source,
    settings: &Settings<'_>,
    account: &Account<'a>,
    messages: Sender<Message<'a>>,
) {
    let ran = Reader::new(source, settings, account, &messages).and_then(|reader| {
        let mut steps = plan.steps.iter().zip(whole);
        steps.try_for_each(|(step, whole)| reader.tensor(step, *whole))
    });
    if let Err(Stop::Failed(error)) = ran {
        // Whether anybody still listens does not matter: this was the last message.
        let _ = messages.send(Message::Failed(error));
    }
}

struct Reader<'a, 'r> {
    source: &'r dyn Source,
    settings: &'r Settings<'r>,
    staging: Option<Staging>,
    /// Threads that share each read, if there are several.
    threads: Option<ThreadPool>,
    account: &'r Account<'a>,
    messages: &'r Sender<Message<'a>>,
}

impl<'a, 'r> Reader<'a, 'r> {
    fn new(
        source: &'r dyn Source,
        settings: &'r Settings<'r>,
        account: &'r Account<'a>,
        messages: &'r Sender<Message<'a>>,
    ) -> Result<Self, Stop> {
        let several = settings.readers > 1;
        let threads = several.then(|| pool(settings.readers, "firebox-read"));
        Ok(Self {
            source,
            settings,
            staging: settings.device.map(Staging::new),
            threads: threads.transpose()?,
            account,
            messages,
        })
    }

    fn tensor(&self, step: &Step, whole: bool) -> Result<(), Stop> {
        let converter = Converter::new(step, self.settings, whole).map_err(|source| {
            let tensor = step.slot.name.clone();
            PipelineError::Format { tensor, source }
        })?;
        if let Converter::Direct = converter {
            self.messages.send(Message::Begin(converter))?;
            self.direct(step)?;
            return Ok(self.messages.send(Message::End)?);
        }
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
            let tile_rows = tile_rows(rows, row_bytes, together, self.settings.tile_bytes);
            for first_row in (0..rows).step_by(tile_rows) {
                let rows = tile_rows.min(rows - first_row);
                let len = rows * row_bytes;
                let at = first_row * row_bytes;
                let (memory, read) = self.memory(step, tensor, at..at + len, uploads)?;
                self.messages.send(Message::Tile(Tile {
                    pass,
                    first_row,
                    rows,
                    read,
                    memory,
                }))?;
            }
        }
        Ok(self.messages.send(Message::End)?)
    }

    /// Reads a weight that is kept as it is stored to where it stays, or finds it there.
    fn direct(&self, step: &Step) -> Result<(), Stop> {
        let (tensor, dtype) = (&step.parts[0], step.float());
        let bytes = tensor.bytes();
        if let Some((shared, read)) = self.shared(step, tensor, 0..bytes as usize, Access::Often)?
            && let Some(dense) = Dense::shared(dtype, shared)
        {
            self.messages.send(Message::Filled { bytes, read })?;
            return Ok(self.messages.send(Message::Whole(dense))?);
        }
        let mut dense = Dense::zeros(dtype, step.slot.shape.iter().product());
        let together = self.settings.tile_bytes.max(1) as usize;
        for (nth, part) in dense.bytes_mut().chunks_mut(together).enumerate() {
            let read = self.read(step, tensor, nth * together, part)?;
            let bytes = part.len() as u64;
            self.messages.send(Message::Filled { bytes, read })?;
        }
        Ok(self.messages.send(Message::Whole(dense))?)
    }

    /// Bytes `range` of `tensor`, where the source has them.
    fn shared(
        &self,
        step: &Step,
        tensor: &TensorInfo,
        range: Range<usize>,
        access: Access,
    ) -> Result<Option<(source::Bytes, Span)>, Stop> {
        let started = Instant::now();
        let offset = tensor.range.start + range.start as u64;
        let shared = self.source.share(&tensor.file, offset, range.len(), access);
        let shared = shared.map_err(|error| failed(step, error))?;
        Ok(shared.map(|bytes| (bytes, Span::since(started))))
    }

    /// Fills `into` with what `tensor` has from byte `at` on, by all threads.
    fn read(
        &self,
        step: &Step,
        tensor: &TensorInfo,
        at: usize,
        into: &mut [u8],
    ) -> Result<Span, Stop> {
        let started = Instant::now();
        let offset = tensor.range.start + at as u64;
        let one = |(nth, part): (usize, &mut [u8])| {
            let offset = offset + (nth * SHARE_BYTES) as u64;
            self.source.read_at(&tensor.file, offset, part)
        };
        let read: Result<(), SourceError> = match &self.threads {
            Some(threads) if into.len() > SHARE_BYTES => threads.install(|| {
                let parts = into.par_chunks_mut(SHARE_BYTES).enumerate();
                parts.map(one).collect()
            }),
            _ => one((0, into)),
        };
        read.map_err(|error| failed(step, error))?;
        Ok(Span::since(started))
    }

    /// Bytes `range` of `tensor`, where the source has them if nobody has to change them, else read.
    fn memory(
        &self,
        step: &Step,
        tensor: &TensorInfo,
        range: Range<usize>,
        uploads: bool,
    ) -> Result<(Memory<'a>, Span), Stop> {
        let (at, len) = (range.start, range.len());
        let permit = || self.account.permit(len).ok_or(Stop::Abandoned);
        if !uploads
            && step.scaling.is_none()
            && let Some((bytes, read)) = self.shared(step, tensor, range, Access::Once)?
        {
            return Ok((Memory::Shared(bytes, permit()?), read));
        }
        match &self.staging {
            Some(staging) if uploads => {
                let permit = permit()?;
                let mut bytes = staging.buffer(len);
                let read = self.read(step, tensor, at, &mut bytes[..len])?;
                Ok((Memory::Staged(bytes, permit), read))
            }
            _ => {
                let mut loan = self.account.borrow(len).ok_or(Stop::Abandoned)?;
                let read = self.read(step, tensor, at, loan.bytes_mut())?;
                Ok((Memory::Host(loan), read))
            }
        }
    }
}

fn failed(step: &Step, source: SourceError) -> Stop {
    let tensor = step.slot.name.clone();
    PipelineError::Read { tensor, source }.into()
}

/// Bytes of a read that one thread takes.
const SHARE_BYTES: usize = 1 << 20;

/// Rows of a tile of about `wanted` bytes, in multiples of what has to stay together and not more than `most`.
fn tile_rows(rows: usize, row_bytes: usize, [together, most]: [usize; 2], wanted: u64) -> usize {
    // A method of the caller's own may promise nonsense.
    let together = together.max(1);
    let wanted = wanted as usize / row_bytes.max(1);
    (wanted / together * together).clamp(together, rows.min(most).max(together))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would catch tiles that split what has to stay together, or that do not grow with narrow rows.
    #[test]
    fn tiles_are_whole_multiples_of_what_stays_together() {
        const MIB: u64 = 1 << 20;
        // rows, bytes a row, together and most, bytes a tile -> rows a tile
        for (rows, row_bytes, [together, most], wanted, expected) in [
            (4096, 8192, [1, usize::MAX], 4 * MIB, 512),
            (4096, 8192, [128, usize::MAX], 4 * MIB, 512),
            (4096, 8192, [300, usize::MAX], 4 * MIB, 300),
            (4096, 8192, [1, usize::MAX], MIB, 128),
            (4096, 8192, [128, usize::MAX], MIB / 8, 128),
            (4096, 8192, [16, 100], 4 * MIB, 100),
            (3, 8192, [1, usize::MAX], 4 * MIB, 3),
            (100, 2, [64, usize::MAX], 4 * MIB, 100),
            (0, 8, [1, usize::MAX], 4 * MIB, 1),
            (1, 1 << 30, [1, usize::MAX], 4 * MIB, 1),
        ] {
            let tile = tile_rows(rows, row_bytes, [together, most], wanted);
            assert_eq!(
                tile, expected,
                "{rows} rows of {row_bytes} bytes by {together}"
            );
        }
    }
}
