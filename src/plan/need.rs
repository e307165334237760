//! What carrying out a plan takes of host memory, besides what is read ahead.

use firebox_kernels::format::Format;

use super::{Action, Plan, Step, Stored};

/// Where finished weights go.
#[derive(Clone, Copy)]
pub(crate) enum Goes<'a> {
    /// They stay in host memory.
    Host,
    /// To a device, which packs what it can where the flag says so.
    Device { packs: bool },
    /// To files, one after another; those that are told in pieces of rows.
    Files(&'a dyn Fn(&Step) -> bool),
}

/// Bytes of host memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Need {
    /// Of finished weights that stay.
    pub(crate) kept: u64,
    /// Of what is under way beside them: weights that are finished elsewhere, scales, rows on their way to a file.
    pub(crate) scratch: u64,
    /// Of the largest read that cannot be split.
    pub(crate) at_once: u64,
    /// The tensor that is read so.
    pub(crate) tensor: String,
}

/// Weights, or pieces, that are finished and not placed yet: one is made, one waits, one is placed.
const UNDER_WAY: u64 = 3;

impl Plan {
    /// What the steps need, when about `tile` bytes are read at once.
    pub(crate) fn need(&self, goes: Goes<'_>, tile: u64) -> Need {
        let bytes = |of: &dyn Fn(&Step) -> u64| self.steps.iter().map(of).max().unwrap_or(0);
        let largest = self.steps.iter().max_by_key(|step| step.bytes_at_once());
        Need {
            kept: match goes {
                Goes::Host => self.totals().bytes_kept,
                Goes::Device { .. } | Goes::Files(_) => 0,
            },
            scratch: bytes(&|step| step.scratch(goes, tile)),
            at_once: bytes(&Step::bytes_at_once),
            tensor: largest.map_or_else(String::new, |step| step.slot.name.clone()),
        }
    }

    /// Whether the host's threads have anything to convert.
    pub(crate) fn converts(&self, goes: Goes<'_>) -> bool {
        let packs = matches!(goes, Goes::Device { packs: true });
        let converts = |step: &Step| match (&step.action, &step.stored) {
            (Action::Dense(dtype), Stored::Plain(source)) => {
                *dtype != *source || !step.scaling.is_none()
            }
            _ => !(packs && step.packs_on_devices()),
        };
        !self.links.is_empty() || self.steps.iter().any(converts)
    }
}

impl Step {
    /// Bytes that are read at once at least: the rows that its method has to see together.
    fn bytes_at_once(&self) -> u64 {
        let shape @ [rows, cols] = self.matrix();
        let Stored::Plain(source) = self.stored else {
            return 1;
        };
        let together = match &self.action {
            Action::Pack(spec, _) => spec.method().map_or(1, |method| match method.packing() {
                Some(packing) => packing.tile_rows(shape),
                // What it cannot pack is refused when it is bound.
                None => method
                    .packer(shape, source)
                    .map_or(1, |packer| packer.tile_rows()),
            }),
            Action::Dense(_) | Action::Keep(_) => 1,
        };
        (together.min(rows) * cols * source.size()) as u64
    }

    /// Whether it is packed by a method that devices have.
    fn packs_on_devices(&self) -> bool {
        let Action::Pack(spec, _) = &self.action else {
            return false;
        };
        spec.method()
            .is_some_and(|method| method.packing().is_some())
    }

    fn scratch(&self, goes: Goes<'_>, tile: u64) -> u64 {
        let parts = match self.stored {
            Stored::Packed(_) => self.bytes_source(),
            Stored::Plain(_) => 0,
        };
        let whole = UNDER_WAY * self.bytes_kept();
        match goes {
            Goes::Host => parts + self.scales(),
            Goes::Device { packs: true } if self.packs_on_devices() => 0,
            Goes::Device { .. } => parts + self.scales() + whole,
            Goes::Files(in_pieces) if parts == 0 && in_pieces(self) => {
                let piece = tile.max(self.bytes_at_once());
                UNDER_WAY * piece.min(self.bytes_kept()) + self.scales()
            }
            Goes::Files(_) => parts + self.scales() + whole,
        }
    }

    /// Bytes of the scales twice, as a packer and as a file has them; of nested ones as well what they are before.
    fn scales(&self) -> u64 {
        let shape = self.matrix();
        let words = match self.action.format() {
            None => 0,
            Some(Format::Nf4(blocks) | Format::Fp4(blocks)) => {
                let count = blocks.count(shape[0] * shape[1]);
                if blocks.nested { 4 * count } else { 2 * count }
            }
            Some(format) => 2 * format.scales_len(shape),
        };
        4 * words as u64
    }
}
