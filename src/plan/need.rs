//! What carrying out a plan takes of host memory, besides what is read ahead.

use firebox_kernels::{arith::float::DType, format::Format, formats::hqq::Axis, packing::Packing};

use super::{Action, Plan, RankPart, Step, Stored};
use crate::quant::QuantSpec;

/// Bytes of host memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Need {
    /// Of finished weights that stay.
    pub(crate) kept: u64,
    /// Of what is under way beside them: weights that are finished elsewhere, scales, rows on their way to a file.
    pub(crate) scratch: u64,
    /// Of what is known about each tensor: its place, its plan, its line in a journal and in the report.
    pub(crate) lists: u64,
    /// Of the largest read that cannot be split.
    pub(crate) at_once: u64,
    /// The tensor that is read so.
    pub(crate) tensor: String,
}

/// Weights, or pieces, that are finished and not placed yet: one is made, one waits, one is placed.
const UNDER_WAY: u64 = 3;

/// Bytes that a tensor takes in the catalog, the plan, the identity and the journal of a save and the report, measured on
/// 100,000 tensors; and how often its name is among them.
const LIST_BYTES: u64 = 2400;
const LIST_NAMES: u64 = 12;

/// Bytes of such lists that are not counted: those of a model of a thousand tensors are less than what a process has besides.
const LISTS_FREE: u64 = 4 << 20;

impl Plan {
    /// What the steps need, when about `tile` bytes are read at once. `by_rows` says which finished weights are taken one
    /// batch of rows after another.
    pub(crate) fn need(&self, by_rows: &dyn Fn(&Step) -> bool, tile: u64) -> Need {
        let bytes = |of: &dyn Fn(&Step) -> u64| self.steps.iter().map(of).max().unwrap_or(0);
        let largest = self.steps.iter().max_by_key(|step| step.bytes_at_once());
        Need {
            kept: {
                let steps = self.steps.iter();
                let stay = steps.filter(|step| self.stays_on_host(step));
                stay.map(Step::bytes_kept).sum()
            },
            scratch: bytes(&|step| self.scratch(step, by_rows(step), tile)),
            lists: self.lists(),
            at_once: bytes(&Step::bytes_at_once),
            tensor: largest.map_or_else(String::new, |step| step.slot.name.clone()),
        }
    }

    /// Bytes of what is known about the tensors, above those that any process has.
    fn lists(&self) -> u64 {
        let names = self.steps.iter().map(|step| step.slot.name.len() as u64);
        let all: u64 = names.map(|name| LIST_BYTES + LIST_NAMES * name).sum();
        all.saturating_sub(LISTS_FREE)
    }

    /// Whether the host's threads have anything to convert.
    pub(crate) fn converts(&self) -> bool {
        let converts = |step: &Step| match (&step.action, &step.stored) {
            (Action::Carry, _) => false,
            (_, Stored::Packed(_)) => true,
            (Action::Dense(dtype), Stored::Plain(source)) => {
                *dtype != *source || !step.scaling.is_none()
            }
            _ => !self.packs_on_device(step),
        };
        !self.links.is_empty() || self.steps.iter().any(converts)
    }

    /// Bytes under way beside the finished weights while `step` is carried out.
    fn scratch(&self, step: &Step, by_rows: bool, tile: u64) -> u64 {
        if self.packs_on_device(step) {
            return 0;
        }
        let parts = match step.action {
            Action::Adopt(_) => step.bytes_source(),
            _ => step.bytes_unpacking(tile) + step.bytes_weaving(),
        };
        let beside = if self.stays_on_host(step) {
            // What is cut out of it stays in its place.
            let is_cut = step.part.as_ref().is_some_and(RankPart::is_cut);
            if is_cut { step.bytes_finished() } else { 0 }
        } else if by_rows && !matches!(step.action, Action::Adopt(_)) {
            let rows = tile.max(step.bytes_at_once());
            UNDER_WAY * rows.min(step.bytes_finished())
        } else {
            UNDER_WAY * step.bytes_finished()
        };
        parts + step.scales() + beside
    }
}

impl Step {
    /// Bytes that carrying it out on the host allocates besides tiles of about `tile` bytes; `by_rows`: its rows are taken one
    /// batch after another.
    pub(crate) fn bytes_allocated(&self, by_rows: bool, tile: u64) -> u64 {
        let parts = match self.action {
            Action::Adopt(_) => self.bytes_source(),
            _ => self.bytes_unpacking(tile),
        };
        let finished = match by_rows {
            true => self.bytes_finished().min(UNDER_WAY * tile),
            false => self.bytes_finished(),
        };
        parts + self.scales() + finished
    }

    /// Bytes that are read at once at least: the rows that its method has to see together.
    fn bytes_at_once(&self) -> u64 {
        if !self.has_values() {
            return 1;
        }
        let [rows, cols] = self.matrix();
        let together = self.rows_together().min(rows);
        (together * cols * self.float().size()) as u64
    }

    /// Rows that its method has to see together.
    pub(crate) fn rows_together(&self) -> usize {
        let shape = self.matrix();
        match &self.action {
            Action::Pack(spec, _) => spec.method().map_or(1, |method| match method.on_device() {
                Some(packing) => packing.tile_rows(shape),
                // What it cannot pack is refused when it is bound.
                None => method
                    .packer(shape, self.float())
                    .map_or(1, |packer| packer.tile_rows()),
            }),
            Action::Dense(_) | Action::Adopt(_) | Action::Carry => 1,
        }
    }

    /// How often its values are read.
    pub(crate) fn passes(&self) -> usize {
        let shape = self.matrix();
        match &self.action {
            Action::Pack(spec, _) => spec.method().map_or(1, |method| match method.on_device() {
                Some(packing) => packing.passes(shape),
                None => method
                    .packer(shape, self.float())
                    .map_or(1, |packer| packer.passes()),
            }),
            Action::Dense(_) | Action::Adopt(_) | Action::Carry => 1,
        }
    }

    /// Bytes that exist beside the finished weight while the host makes it, where about `tile` bytes are read at once.
    pub(crate) fn bytes_beside(&self, tile: u64) -> u64 {
        let scales = match self.action.format() {
            Some(Format::Nf4(blocks) | Format::Fp4(blocks)) if blocks.nested => self.scales(),
            _ => 0,
        };
        let unpacked = match self.action {
            Action::Adopt(_) => self.bytes_source(),
            _ => self.bytes_unpacking(tile) + self.bytes_weaving(),
        };
        scales + unpacked
    }

    /// Bytes that its packer holds from the moment that its tensor is read until the weight is finished: HQQ's zeros after each
    /// step of the solver, and, along the first axis, the weight.
    pub(crate) fn bytes_held(&self) -> u64 {
        let (Action::Pack(QuantSpec::Pack(Packing::Hqq(hqq)), format), [rows, cols]) =
            (&self.action, self.matrix())
        else {
            return 0;
        };
        let Format::Affine(affine) = format else {
            return 0;
        };
        let groups = affine.groups([rows, cols]) as u64;
        let values = match hqq.axis {
            Axis::First => 8 * (rows * cols) as u64,
            Axis::Last => 0,
        };
        let steps = if hqq.optimize { 80 } else { 0 };
        groups * (8 + steps) + values
    }

    /// Bytes of what is unpacked at once beside its values, where about `tile` bytes of values are: one tile is on its way
    /// to the converter, and one may be compared.
    fn bytes_unpacking(&self, tile: u64) -> u64 {
        let Stored::Packed(adopt) = &self.stored else {
            return 0;
        };
        let [rows, cols] = self.matrix();
        let matrices = adopt.matrices();
        let [rows, cols] = match (self.every, self.woven) {
            (Some(every), _) => [every.of, cols],
            (_, Some(woven)) => [rows * cols / woven.each[1].max(1), woven.each[1]],
            _ => [rows, cols],
        };
        let rows = rows / matrices.len().max(1);
        let values = tile.max(self.bytes_at_once()) as usize / DType::F32.size();
        let tile = (values / cols.max(1)).max(1);
        let Some(adopt) = matrices.first().filter(|_| rows > 0) else {
            return 0;
        };
        let read = match self.woven {
            None => (tile * adopt.tiles_at_once()).min(rows),
            // All of an expert.
            Some(_) => rows,
        };
        let excerpt = adopt.excerpt([rows, cols], 0..read);
        // Values that turn have a second place.
        let turned = if adopt.turns {
            excerpt.cols.len() * cols * DType::F32.size()
        } else {
            0
        };
        // Rows between those that are picked are unpacked too.
        let beside = match self.every {
            Some(every) if every.run == 1 => tile * every.step * cols * DType::F32.size(),
            _ => 0,
        };
        2 * (excerpt.bytes() + turned + beside) as u64
    }

    /// Bytes of an expert that is put together, as it is stored and as it becomes.
    fn bytes_weaving(&self) -> u64 {
        let each = self.woven.map_or(0, |woven| woven.each.iter().product());
        2 * (each * DType::F32.size()) as u64
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
