//! Products in whole numbers: codes of a weight as bytes, times inputs that are rounded to bytes in blocks.
//!
//! ```text
//! y = sum over blocks of (scale[w] * scale[x]) * sum((code - zero) * input) + offset[w] * (scale[x] * sum(input))
//! ```
//!
//! The sums of a block are whole numbers and exact. Blocks are added in their order, with one rounding each where there is
//! an instruction for it: an output has the same bits whichever rows and inputs it is computed among, and on every
//! processor that has it.
//!
//! A format is fit for it whose codes stand for whole numbers, or for levels that bytes come near to (NF4, FP4).

mod inputs;
mod panels;
mod portable;
#[cfg(target_arch = "x86_64")]
mod row;
#[cfg(target_arch = "x86_64")]
mod shuffle;
mod weight;
#[cfg(target_arch = "x86_64")]
mod x86;

use inputs::ByteInputs;
use panels::{BytePanels, ROWS};
pub(super) use weight::{ByteWeight, fits};
use weight::{FOUR, Params, beside};

/// Some rows, side by side: four bytes of each, then the next four, and their scales and offsets block by block.
#[derive(Default)]
pub(super) struct ByteRows {
    /// `[cols / 4]`.
    words: Vec<[[u8; FOUR]; ROWS]>,
    /// `[blocks]`.
    scales: Vec<[f32; ROWS]>,
    offsets: Vec<[f32; ROWS]>,
    /// The rows one after another.
    rows: Vec<u8>,
    values: Vec<f32>,
    params: Params,
}

/// Bytes between rows that lie one after another, so that they are no power of two apart.
const GAP: usize = 64;

impl ByteRows {
    /// Takes `rows` rows from `first` on.
    pub(super) fn fill(&mut self, weight: &ByteWeight<'_>, first: usize, rows: usize) {
        let cols = weight.cols();
        self.words.resize(cols / FOUR, [[0; FOUR]; ROWS]);
        self.rows.resize((cols + GAP) * ROWS, 0);
        for all in [&mut self.scales, &mut self.offsets] {
            all.resize(weight.blocks, [0.0; ROWS]);
        }
        weight.params(first, rows, &mut self.params);
        let params = [&self.params.scales, &self.params.offsets];
        let groups = weight.groups();
        let all = self.rows.chunks_exact_mut(cols + GAP);
        for (r, row) in all.take(rows).enumerate() {
            let params = params.map(|all| &all[r * groups..][..groups]);
            weight.row(first + r, &mut self.values, params, &mut row[..cols]);
        }
        let together = weight.group.div_ceil(weight.block);
        for (params, to) in params
            .into_iter()
            .zip([&mut self.scales, &mut self.offsets])
        {
            beside(params, groups, together, to);
        }
        let at = |r: usize| self.rows[r * (cols + GAP)..][..cols].as_chunks().0;
        let rows = core::array::from_fn(at);
        #[cfg(target_arch = "x86_64")]
        let done = shuffle::interleave(&rows, &mut self.words);
        #[cfg(not(target_arch = "x86_64"))]
        let done = 0;
        for (k, words) in self.words.iter_mut().enumerate().skip(done) {
            *words = rows.map(|row| row[k]);
        }
    }
}

/// What multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ByteUnit {
    /// AVX-512 with dot products of bytes.
    #[cfg(target_arch = "x86_64")]
    Vnni,
    /// AVX2.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// What every processor has.
    Portable,
}

impl ByteUnit {
    /// The best that this processor has.
    pub(super) fn best() -> Self {
        Self::all().next().unwrap_or(Self::Portable)
    }

    /// All that this processor has, the best first.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        [
            #[cfg(target_arch = "x86_64")]
            x86::has_vnni().then_some(Self::Vnni),
            #[cfg(target_arch = "x86_64")]
            x86::has_avx2().then_some(Self::Avx2),
            Some(Self::Portable),
        ]
        .into_iter()
        .flatten()
    }
}

/// Inputs to a weight, and what multiplies them.
pub(super) struct ByteProduct<'a> {
    unit: ByteUnit,
    weight: ByteWeight<'a>,
    x: ByteInputs,
    /// Of one input.
    #[cfg(target_arch = "x86_64")]
    row: Option<row::RowInput>,
}

/// Memory that a thread uses in one job after another.
#[derive(Default)]
pub(super) struct ByteScratch {
    rows: ByteRows,
    #[cfg(target_arch = "x86_64")]
    params: row::RowParams,
}

impl<'a> ByteProduct<'a> {
    /// Inputs `[m, i]` to the weight.
    pub(super) fn new(unit: ByteUnit, weight: ByteWeight<'a>, x: &[f32]) -> Self {
        let x = ByteInputs::new(x, &weight);
        Self {
            #[cfg(target_arch = "x86_64")]
            row: (unit == ByteUnit::Vnni)
                .then(|| row::RowInput::new(&weight, &x))
                .flatten(),
            unit,
            weight,
            x,
        }
    }

    /// The rows from `first` on, [`ROWS`] at most, into `[m, rows]`.
    pub(super) fn rows(&self, first: usize, scratch: &mut ByteScratch, y: &mut [f32]) {
        let Self { weight, x, .. } = self;
        #[cfg(target_arch = "x86_64")]
        let done = match &self.row {
            Some(row) => row::products(weight, first, &mut scratch.params, x, row, y),
            None => 0,
        };
        #[cfg(not(target_arch = "x86_64"))]
        let done = 0;
        // Of one input, if any were done.
        let y = &mut y[done..];
        let rows = y.len() / x.len();
        if rows == 0 {
            return;
        }
        let w = &mut scratch.rows;
        w.fill(weight, first + done, rows);
        let offsets = if weight.has_offsets() {
            &w.offsets[..]
        } else {
            &[]
        };
        macro_rules! panel {
            ($inputs:literal, $first:expr) => {{
                let panels = BytePanels {
                    w: &w.words,
                    scales: &w.scales,
                    offsets,
                    x: x.panel::<$inputs>($first),
                    fours: weight.block / FOUR,
                };
                let found = multiply(self.unit, panels);
                for (y, found) in y[$first * rows..].chunks_exact_mut(rows).zip(found) {
                    y.copy_from_slice(&found[..rows]);
                }
            }};
        }
        super::dot::for_panels(
            x.len(),
            #[inline(always)]
            |first, panel| match panel {
                super::dot::INPUTS => panel!(6, first),
                4 => panel!(4, first),
                2 => panel!(2, first),
                _ => panel!(1, first),
            },
        );
    }
}

/// Products of all rows with the inputs.
fn multiply<const M: usize>(unit: ByteUnit, panels: BytePanels<'_, M>) -> [[f32; ROWS]; M] {
    match unit {
        #[cfg(target_arch = "x86_64")]
        ByteUnit::Vnni => x86::vnni(panels),
        #[cfg(target_arch = "x86_64")]
        ByteUnit::Avx2 => x86::avx2(panels),
        ByteUnit::Portable => portable::multiply(panels),
    }
}
