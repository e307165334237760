//! Reading ahead: tensors in plan order, cut into tiles of whole rows.

use std::{ops::Range, time::Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use firebox_kernels::arith::float::DType;
use rayon::{ThreadPool, prelude::*};

use super::{
    convert::Convert,
    dense::{Dense, Values},
    error::{PipelineError, Stop},
    fetch::FetchedSource,
    in_flight::Account,
    pieces::{Pieces, Stretch},
    road::Road,
    room,
    rows::read_error,
    settings::{Settings, pool},
    staging::Staging,
    tile::{SourceTile, TileMemory},
    values::SourceValues,
};
use crate::{
    observe::Span,
    plan::{Plan, Step, Stored},
    source::{self, Access, SourceError, SourceExt},
};

/// A tensor that is being read, with the receiver of what is read of it.
///
/// These inner channels have no bound: the account bounds the bytes of tiles. A bounded one would leave the reader
/// waiting for ever when a run fails while its receiver lies in the outer channel, unseen.
pub(super) enum Incoming<'a> {
    /// `count` tiles for a converter.
    Tiles {
        converter: Box<dyn Convert>,
        count: usize,
        tiles: Receiver<Result<SourceTile<'a>, PipelineError>>,
    },
    /// A weight that the reader reads to where it stays.
    Straight(Receiver<Result<Straight, PipelineError>>),
}

/// The progress of a weight that is read to where it stays.
pub(super) enum Straight {
    /// A part of it is there.
    Part { bytes: u64, read: Span },
    /// All of it is there.
    Whole(Dense),
}

/// Reads every tensor of `plan`, in its order, and never more than the reader's account allows ahead. `by_rows` says for
/// which steps the sink takes rows.
pub(super) fn read<'a>(
    reader: &Reader<'a, '_>,
    plan: &Plan,
    by_rows: &[bool],
    tensors: &Sender<Result<Incoming<'a>, PipelineError>>,
) {
    let mut steps = plan.steps.iter().zip(by_rows).enumerate();
    let ran = steps.try_for_each(|(nth, (step, by_rows))| {
        let ran = reader.tensor(step, *by_rows);
        reader.reading.finished(nth);
        ran
    });
    let _ = hand_over(tensors, ran);
}

/// Sends a failure to the receiver of `to`, and ends the reader.
fn hand_over<T>(to: &Sender<Result<T, PipelineError>>, ran: Result<(), Stop>) -> Result<(), Stop> {
    let Err(Stop::Failed(error)) = ran else {
        return ran;
    };
    // If nobody receives it, the run has failed already.
    let _ = to.send(Err(error));
    Err(Stop::Abandoned)
}

pub(super) struct Reader<'a, 'r> {
    reading: FetchedSource<'r>,
    settings: &'r Settings<'r>,
    staging: Option<Staging>,
    /// Threads that share each read, if there are several.
    threads: Option<ThreadPool>,
    account: &'r Account<'a>,
    /// Threads that unpack.
    workers: &'r ThreadPool,
    tensors: &'r Sender<Result<Incoming<'a>, PipelineError>>,
}

impl<'a, 'r> Reader<'a, 'r> {
    pub(super) fn new(
        reading: FetchedSource<'r>,
        settings: &'r Settings<'r>,
        account: &'r Account<'a>,
        workers: &'r ThreadPool,
        tensors: &'r Sender<Result<Incoming<'a>, PipelineError>>,
    ) -> Self {
        let several = settings.readers > 1;
        // One thread reads as well, if not as fast.
        let threads = several.then(|| pool(settings.readers, "firebox-read").ok());
        Self {
            reading,
            settings,
            staging: settings.devices.first().map(Staging::new),
            threads: threads.flatten(),
            account,
            workers,
            tensors,
        }
    }

    fn tensor(&self, step: &Step, by_rows: bool) -> Result<(), Stop> {
        if self.settings.device(step).is_none() {
            room::ensure(
                step,
                step.bytes_allocated(by_rows, self.settings.tile_bytes),
            )?;
        }
        match Road::of(step, self.settings, by_rows)? {
            Road::Straight(dtype) => {
                let (send, receive) = unbounded();
                self.tensors.send(Ok(Incoming::Straight(receive)))?;
                hand_over(&send, self.straight(step, dtype, &send))
            }
            Road::Tiles(converter) => self.tiles(step, converter),
        }
    }

    fn tiles(&self, step: &Step, converter: Box<dyn Convert>) -> Result<(), Stop> {
        let uploads = converter.uploads();
        let together = converter.tile_rows();
        let passes: Vec<Pass> = if step.has_values() {
            let [rows, cols] = step.matrix();
            let row_bytes = cols * step.float().size();
            let values = SourceValues::of(step);
            let pass = Pass::new(values, rows, row_bytes, together, self.settings);
            vec![pass; converter.passes()]
        } else {
            // Read as the tensors are stored: rows are bytes.
            let pass = |pieces| {
                let values = SourceValues::Plain(pieces);
                let rows = values.bytes();
                Pass::new(values, rows, 1, together, self.settings)
            };
            stored(step).into_iter().map(pass).collect()
        };
        let (send, receive) = unbounded();
        self.tensors.send(Ok(Incoming::Tiles {
            converter,
            count: passes.iter().map(Pass::tiles).sum(),
            tiles: receive,
        }))?;
        let mut passes = passes.iter().enumerate();
        let ran = passes.try_for_each(|(nth, pass)| self.pass(step, nth, pass, uploads, &send));
        hand_over(&send, ran)
    }

    fn pass(
        &self,
        step: &Step,
        nth: usize,
        pass: &Pass,
        uploads: bool,
        tiles: &Sender<Result<SourceTile<'a>, PipelineError>>,
    ) -> Result<(), Stop> {
        for first_row in (0..pass.rows).step_by(pass.tile_rows) {
            let rows = pass.tile_rows.min(pass.rows - first_row);
            let range = first_row * pass.row_bytes..(first_row + rows) * pass.row_bytes;
            let (memory, read, bytes_read) = self.memory(step, &pass.values, range, uploads)?;
            tiles.send(Ok(SourceTile {
                pass: nth,
                first_row,
                rows,
                read,
                bytes_read,
                memory,
            }))?;
        }
        Ok(())
    }

    /// Reads a weight that stays as it is stored to where it stays, or finds it there.
    fn straight(
        &self,
        step: &Step,
        dtype: DType,
        progress: &Sender<Result<Straight, PipelineError>>,
    ) -> Result<(), Stop> {
        let stored = SourceValues::of(step);
        let len = stored.bytes();
        let bytes = len as u64;
        if let Some((shared, read)) = self.shared(step, &stored, 0..len, Access::Often)?
            && let Some(dense) = Dense::shared(dtype, shared)
        {
            progress.send(Ok(Straight::Part { bytes, read }))?;
            return Ok(progress.send(Ok(Straight::Whole(dense)))?);
        }
        let mut values = Values::zeros(step, dtype, step.slot.shape.iter().product())?;
        let together = self.settings.tile_bytes.max(1) as usize;
        // No value is cut.
        let together = together.next_multiple_of(dtype.size());
        for (nth, part) in values.bytes_mut().chunks_mut(together).enumerate() {
            if self.account.is_closed() {
                return Err(Stop::Abandoned);
            }
            let (read, _) = self.read(step, &stored, nth * together, part)?;
            let bytes = part.len() as u64;
            progress.send(Ok(Straight::Part { bytes, read }))?;
        }
        Ok(progress.send(Ok(Straight::Whole(Dense::Owned(values))))?)
    }

    /// Bytes `range` of a weight, where the source has them in one stretch.
    fn shared(
        &self,
        step: &Step,
        values: &SourceValues,
        range: Range<usize>,
        access: Access,
    ) -> Result<Option<(source::Bytes, Span)>, Stop> {
        let Some(Stretch { file, offset }) = values.stretch(&range) else {
            return Ok(None);
        };
        let started = Instant::now();
        let shared = self
            .reading
            .source()
            .share(file, offset, range.len(), access);
        let shared = shared.map_err(|error| read_error(step, error))?;
        Ok(shared.map(|bytes| (bytes, Span::since(started))))
    }

    /// Fills `into` with the bytes of a weight that begin with the one at `start`. When that was, and how many bytes were
    /// read.
    fn read(
        &self,
        step: &Step,
        values: &SourceValues,
        start: usize,
        into: &mut [u8],
    ) -> Result<(Span, u64), Stop> {
        let started = Instant::now();
        let read = values.fill(start, into, self.workers, |file, offset, into| {
            self.read_at(file, offset, into)
        });
        let bytes = read.map_err(|error| read_error(step, error))?;
        Ok((Span::since(started), bytes))
    }

    /// Fills `into` from a file, by all threads.
    fn read_at(&self, file: &str, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        let one = |(nth, part): (usize, &mut [u8])| {
            let offset = offset + (nth * SHARE_BYTES) as u64;
            self.reading.source().read_at(file, offset, part)
        };
        match &self.threads {
            Some(threads) if into.len() > SHARE_BYTES => threads.install(|| {
                let parts = into.par_chunks_mut(SHARE_BYTES).enumerate();
                parts.map(one).collect()
            }),
            _ => one((0, into)),
        }
    }

    /// Bytes `range` of a weight: in memory of the source if they stay unchanged, or else in a buffer.
    fn memory(
        &self,
        step: &Step,
        values: &SourceValues,
        range: Range<usize>,
        uploads: bool,
    ) -> Result<(TileMemory<'a>, Span, u64), Stop> {
        let (at, len) = (range.start, range.len());
        let permit = || self.account.permit(len).ok_or(Stop::Abandoned);
        if !uploads
            && step.scaling.is_none()
            && let Some((bytes, read)) = self.shared(step, values, range, Access::Once)?
        {
            return Ok((TileMemory::Shared(bytes, permit()?), read, len as u64));
        }
        match &self.staging {
            Some(staging) if uploads => {
                let permit = permit()?;
                let mut bytes = staging.buffer(len);
                let (span, read) = self.read(step, values, at, &mut bytes[..len])?;
                Ok((TileMemory::Staged(bytes, permit), span, read))
            }
            _ => {
                room::ensure(step, len as u64)?;
                let mut loan = self.account.borrow(len).ok_or(Stop::Abandoned)?;
                let (span, read) = self.read(step, values, at, loan.bytes_mut())?;
                Ok((TileMemory::Host(loan), span, read))
            }
        }
    }
}

/// The bytes of the tensors of a weight that is taken as it is stored: of each, or of what one of several ranks has of it.
fn stored(step: &Step) -> Vec<Pieces> {
    let adopt = match &step.stored {
        Stored::Packed(adopt) => Some(adopt),
        Stored::Plain(_) | Stored::Other(_) => None,
    };
    match adopt.and_then(|adopt| Some((adopt, adopt.excerpts()?))) {
        None => step.tensors().map(Pieces::stored).collect(),
        Some((adopt, excerpts)) => {
            let parts = excerpts.iter().flat_map(|excerpt| {
                let parts = adopt.parts.iter().zip(&excerpt.parts);
                parts.map(|(part, runs)| Pieces::runs(part, runs))
            });
            parts.collect()
        }
    }
}

/// One reading of a tensor, in tiles.
#[derive(Clone)]
struct Pass {
    values: SourceValues,
    rows: usize,
    row_bytes: usize,
    /// Rows of each tile but the last.
    tile_rows: usize,
}

impl Pass {
    fn new(
        values: SourceValues,
        rows: usize,
        row_bytes: usize,
        [together, most]: [usize; 2],
        settings: &Settings<'_>,
    ) -> Self {
        // Rows that are unpacked with others are in one tile with them, where tiles are large enough.
        let unit = values.rows_together();
        let most_wanted = most.min(settings.tile_bytes as usize / row_bytes.max(1));
        let fits = unit.is_multiple_of(together.max(1)) && unit <= most_wanted;
        let together = if fits { unit } else { together };
        let tile_rows = tile_rows(rows, row_bytes, [together, most], settings.tile_bytes);
        Self {
            values,
            rows,
            row_bytes,
            tile_rows,
        }
    }

    fn tiles(&self) -> usize {
        self.rows.div_ceil(self.tile_rows)
    }
}

/// Bytes of a read that one thread takes.
const SHARE_BYTES: usize = 1 << 20;

/// Rows of a tile of about `wanted` bytes: a multiple of the rows that stay together, and at most `most`.
pub(super) fn tile_rows(
    rows: usize,
    row_bytes: usize,
    [together, most]: [usize; 2],
    wanted: u64,
) -> usize {
    // A custom method may promise nonsense.
    let together = together.max(1);
    let wanted = wanted as usize / row_bytes.max(1);
    (wanted / together * together).clamp(together, rows.min(most).max(together))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would catch tiles that split rows that stay together, or that do not grow with narrow rows.
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
