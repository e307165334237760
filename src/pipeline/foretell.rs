//! The host memory of a run before it is begun: the reader, its buffers and the finished weights, played through with sizes alone.
//!
//! The reader is taken to be as far ahead as it may be, which is where memory is highest: a buffer is given back only when the
//! reader needs it. [`InFlight`](super::InFlight) says which buffer is used again.

use std::collections::VecDeque;

use super::{in_flight::LOANS_MAX, read::tile_rows, run::TENSORS_WAITING_MAX};
use crate::plan::{Action, Plan, Step, Stored};

/// How a run goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RunSize {
    /// Bytes that are read at once, about.
    pub(crate) tile: u64,
    /// Bytes in flight at most.
    pub(crate) in_flight: u64,
    /// Whether weights lie in maps of their files, which are no memory of the process.
    pub(crate) mapped: bool,
}

/// The host memory of a run at its highest, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Foretold {
    /// Of finished weights that stay.
    pub(crate) weights: u64,
    /// Of buffers between reader and converter.
    pub(crate) in_flight: u64,
    /// Of what is made beside a weight, and of weights on their way to a device.
    pub(crate) scratch: u64,
}

impl Foretold {
    pub(crate) fn sum(&self) -> u64 {
        self.weights + self.in_flight + self.scratch
    }
}

/// Plays `plan` through.
pub(crate) fn foretell(plan: &Plan, size: &RunSize) -> Foretold {
    let mut play = Play::new(size);
    for (nth, step) in plan.steps.iter().enumerate() {
        // The converter has taken all tensors but those that wait, and the one that it has.
        while play
            .loans
            .front()
            .is_some_and(|loan| loan.step + TENSORS_WAITING_MAX < nth)
        {
            play.convert();
        }
        play.step(plan, nth, step);
    }
    while !play.loans.is_empty() {
        play.convert();
    }
    play.look();
    play.most
}

/// A buffer with a tile in it.
struct LentTile {
    step: usize,
    buffer: u64,
    /// Bytes of the finished weight that come of the tile and stay.
    becomes: u64,
    /// Bytes beside the weight while the tile is converted.
    beside: u64,
    /// Bytes that the packer of the weight holds, from its first tile to its last.
    held: u64,
    /// Whether it is the last tile of its weight.
    is_last: bool,
    /// Whether the buffer is used again.
    is_spared: bool,
}

struct Play<'s> {
    size: &'s RunSize,
    loans: VecDeque<LentTile>,
    spare: Vec<u64>,
    /// Bytes of the loans.
    used: u64,
    /// Bytes that packers hold.
    held: u64,
    now: Foretold,
    most: Foretold,
    /// Bytes of weights that were read to where they stay for a moment, the last ones.
    passing: VecDeque<u64>,
}

impl<'s> Play<'s> {
    fn new(size: &'s RunSize) -> Self {
        Self {
            size,
            loans: VecDeque::new(),
            spare: Vec::new(),
            used: 0,
            held: 0,
            now: Foretold::default(),
            most: Foretold::default(),
            passing: VecDeque::new(),
        }
    }

    fn look(&mut self) {
        self.now.in_flight = self.used + self.spare.iter().sum::<u64>();
        if self.now.sum() > self.most.sum() {
            self.most = self.now;
        }
    }

    fn step(&mut self, plan: &Plan, nth: usize, step: &Step) {
        let stays = plan.stays_on_host(step);
        let finished = step.bytes_finished();
        if is_straight(step) {
            if self.size.mapped {
                return;
            }
            match stays {
                true => self.now.weights += finished,
                false => {
                    // One is read, some wait, one is placed.
                    self.passing.push_back(finished);
                    if self.passing.len() > TENSORS_WAITING_MAX + 2 {
                        self.passing.pop_front();
                    }
                }
            }
            self.now.scratch = self.passing.iter().sum::<u64>() + self.held;
            return self.look();
        }
        let uploads = plan.packs_on_device(step);
        let tiles = tiles(step, self.size.tile);
        let passes = step.passes().max(1);
        let count = (tiles.len() * passes) as u64;
        let beside = match uploads {
            true => 0,
            false => step.bytes_beside(self.size.tile) + if stays { 0 } else { finished },
        };
        let becomes = if stays { finished } else { 0 };
        let held = if uploads { 0 } else { step.bytes_held() };
        self.held += held;
        for (at, len) in (0..passes).flat_map(|_| &tiles).enumerate() {
            let at = at as u64;
            let tile = LentTile {
                step: nth,
                buffer: *len,
                becomes: becomes * (at + 1) / count - becomes * at / count,
                beside,
                held,
                is_last: at + 1 == count,
                is_spared: !uploads,
            };
            // Bytes of a map are no memory of the process, and no buffer.
            let is_read = uploads || !self.size.mapped || !step.scaling.is_none();
            self.lend(tile, is_read);
        }
    }

    fn lend(&mut self, mut tile: LentTile, is_read: bool) {
        if !is_read {
            tile.buffer = 0;
            tile.is_spared = false;
        }
        let most = if tile.is_spared {
            LOANS_MAX
        } else {
            usize::MAX
        };
        while !self.loans.is_empty()
            && (self.used + tile.buffer > self.size.in_flight || self.loans.len() >= most)
        {
            self.convert();
        }
        if tile.is_spared {
            let used = self.used;
            let fits = |buffer: &u64| {
                *buffer >= tile.buffer && (used == 0 || used + buffer <= self.size.in_flight)
            };
            match self.spare.iter().position(fits) {
                Some(fits) => tile.buffer = self.spare.swap_remove(fits),
                None => self.spare.clear(),
            }
        }
        self.used += tile.buffer;
        self.loans.push_back(tile);
        self.look();
    }

    /// The oldest tile becomes part of its weight.
    fn convert(&mut self) {
        let Some(tile) = self.loans.pop_front() else {
            return;
        };
        self.now.weights += tile.becomes;
        self.now.scratch = tile.beside + self.held;
        self.look();
        if tile.is_last {
            self.held -= tile.held;
        }
        self.used -= tile.buffer;
        let spare: u64 = self.spare.iter().sum();
        if tile.is_spared && self.used + spare + tile.buffer <= self.size.in_flight {
            self.spare.push(tile.buffer);
        }
    }
}

/// Whether the reader reads a weight to where it stays.
fn is_straight(step: &Step) -> bool {
    match (&step.stored, &step.action) {
        (Stored::Plain(source), Action::Dense(dtype)) => {
            dtype == source && step.merge.is_none() && step.scaling.is_none()
        }
        _ => false,
    }
}

/// Bytes of the tiles of one pass.
fn tiles(step: &Step, wanted: u64) -> Vec<u64> {
    let cut = |rows: usize, row_bytes: usize, together: usize| {
        let rows_of_tile = tile_rows(rows, row_bytes, [together, usize::MAX], wanted);
        let firsts = (0..rows).step_by(rows_of_tile);
        let tiles = firsts.map(move |first| (rows_of_tile.min(rows - first) * row_bytes) as u64);
        tiles.collect::<Vec<u64>>()
    };
    if step.has_values() {
        let [rows, cols] = step.matrix();
        return cut(rows, cols * step.float().size(), step.rows_together());
    }
    let stored = step.tensors().map(|tensor| tensor.bytes() as usize);
    stored.flat_map(|bytes| cut(bytes, 1, 1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn tile(step: usize, buffer: u64) -> LentTile {
        LentTile {
            step,
            buffer,
            becomes: buffer / 4,
            beside: 0,
            held: 0,
            is_last: true,
            is_spared: true,
        }
    }

    /// Would catch buffers that are given back while the reader needs none, more of them than a reader may borrow, and more bytes
    /// than may be in flight.
    #[test]
    fn buffers_are_as_many_as_a_reader_may_have() {
        for (in_flight, tiles, buffers) in [
            (256 * MIB, 100, LOANS_MAX as u64),
            (32 * MIB, 100, 8),
            (256 * MIB, 3, 3),
            (MIB, 5, 1),
        ] {
            let size = RunSize {
                tile: 4 * MIB,
                in_flight,
                mapped: false,
            };
            let mut play = Play::new(&size);
            (0..tiles).for_each(|nth| play.lend(tile(nth, 4 * MIB), true));
            while !play.loans.is_empty() {
                play.convert();
            }
            let expected = Foretold {
                weights: tiles as u64 * MIB,
                in_flight: buffers * 4 * MIB,
                scratch: 0,
            };
            // A tile that exceeds all that may be in flight is not kept for the next one.
            let buffers_stay = in_flight >= 4 * MIB;
            if buffers_stay {
                assert_eq!(play.most, expected, "{in_flight} in flight, {tiles} tiles");
            } else {
                assert_eq!(play.most.in_flight, expected.in_flight);
            }
        }
    }
}
