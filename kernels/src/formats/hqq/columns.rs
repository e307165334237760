//! Groups that are columns of the weight written down as `[group, n / group]`: all groups a step at a time.

use core::mem;

use rayon::prelude::*;

use super::plan::HqqPlan;
use super::power::{self, LANES};
use super::solve::{self, STEPS};
use crate::arith::float::join_ranges;
use crate::arith::lanes::for_processors;
use crate::arith::pack::{self, STREAM};
use crate::arith::reduce::running::RunningSum;
use crate::arith::reduce::{self, ROW};
use crate::packer::{self, FeedOrder, Packer};

/// Rows of lanes in a row of the sums.
const PARTS: usize = ROW / LANES;

/// Weights along the first axis: read once for their groups, once for their codes.
pub(super) struct FirstAxisPacker {
    plan: HqqPlan,
    order: FeedOrder,
    /// Smallest and largest weight so far, a group each; groups are filled up to whole blocks.
    ends: Vec<(f32, f32)>,
    /// Where zeros are solved for, the weights, widened, in blocks of 32 columns: `[blocks, group, 32]`.
    weights: Vec<[f32; ROW]>,
    /// The factor of each group's weights; empty until all weights were seen.
    scales: Vec<f32>,
    /// The zero of each group, then.
    zeros: Vec<f32>,
}

/// Scales and zeros of the groups of a block of columns.
#[derive(Clone)]
struct ColumnBlock {
    scales: [f32; ROW],
    zeros: [f32; ROW],
    /// Whether no zero moves any more, so that the next step is the last one again.
    still: bool,
}

impl FirstAxisPacker {
    pub(super) fn new(plan: HqqPlan) -> Self {
        let blocks = plan.affine.groups(plan.shape).div_ceil(ROW);
        let kept = if plan.solve {
            blocks * plan.affine.group
        } else {
            0
        };
        Self {
            plan,
            order: plan.order(),
            ends: vec![(f32::INFINITY, f32::NEG_INFINITY); blocks * ROW],
            weights: vec![[0.0; ROW]; kept],
            scales: Vec::new(),
            zeros: Vec::new(),
        }
    }

    /// Takes note of weights from weight `first` on.
    fn see(&mut self, first: usize, tile: &[u8]) {
        let Self {
            plan,
            ends,
            weights,
            ..
        } = self;
        let size = plan.source.size();
        runs(
            plan,
            first,
            tile.len() / size,
            |from, block, row, column, run| {
                let mut scratch = [0.0; ROW];
                let values = &mut scratch[..run];
                plan.source
                    .widen_here(&tile[from * size..][..run * size], values);
                for (ends, value) in ends[block * ROW + column..].iter_mut().zip(&*values) {
                    *ends = join_ranges(*ends, (*value, *value));
                }
                if plan.solve {
                    weights[block * plan.affine.group + row][column..][..run]
                        .copy_from_slice(values);
                }
            },
        );
    }

    /// Chooses scales and zeros, now that all weights were seen.
    fn scale(&mut self) {
        let plan = self.plan;
        let mut blocks: Vec<ColumnBlock> =
            (self.ends.chunks(ROW).map(|ends| begin(&plan, ends))).collect();
        if plan.solve && plan.n() > 0 {
            solve(&plan, &mem::take(&mut self.weights), &mut blocks);
        }
        let groups = plan.affine.groups(plan.shape);
        let flat = |of: fn(&ColumnBlock) -> &[f32; ROW]| -> Vec<f32> {
            blocks.iter().flat_map(of).copied().take(groups).collect()
        };
        self.scales = flat(|block| &block.scales);
        self.zeros = flat(|block| &block.zeros);
    }
}

/// Calls `take` with each run of weights that a block has next to each other, in their order, from weight `first` on:
/// where in the values they begin, in which block and row of it and from which column on, and how many.
fn runs(
    plan: &HqqPlan,
    first: usize,
    len: usize,
    mut take: impl FnMut(usize, usize, usize, usize, usize),
) {
    let columns = plan.affine.groups(plan.shape);
    let mut done = 0;
    while done < len {
        let (row, column) = ((first + done) / columns, (first + done) % columns);
        let run = (ROW - column % ROW).min(columns - column).min(len - done);
        take(done, column / ROW, row, column % ROW, run);
        done += run;
    }
}

/// First scales and zeros of the groups of a block.
fn begin(plan: &HqqPlan, ends: &[(f32, f32)]) -> ColumnBlock {
    let (mut scales, mut zeros) = ([0.0; ROW], [0.0; ROW]);
    for ((scale, zero), (min, max)) in scales.iter_mut().zip(&mut zeros).zip(ends) {
        (*scale, *zero) = plan.scaling(*min, *max);
    }
    ColumnBlock {
        scales,
        zeros,
        still: false,
    }
}

/// Moves the zeros of all blocks, `weights` as in [`FirstAxisPacker`].
fn solve(plan: &HqqPlan, weights: &[[f32; ROW]], blocks: &mut [ColumnBlock]) {
    let (group, n) = (plan.affine.group, plan.n());
    let mut errors = vec![[0.0; ROW]; weights.len()];
    let mut best = f32::INFINITY;
    for _ in 0..STEPS {
        weights
            .par_chunks(group)
            .zip(&mut *blocks)
            .zip(errors.par_chunks_mut(group))
            .enumerate()
            .filter(|(_, ((_, block), _))| !block.still)
            .for_each(|(k, ((weights, block), errors))| {
                step(plan, k * ROW, weights, block, errors);
            });
        let mut sum = RunningSum::new(n);
        runs(plan, 0, n, |_, block, row, column, run| {
            sum.push(&errors[block * group + row][column..][..run]);
        });
        let error = sum.finish() / n as f32;
        // NaN is not better either.
        if error < best {
            best = error;
        } else {
            break;
        }
    }
}

for_processors! {
    /// One step of the groups of the block that begins at column `first`.
    fn step(
        plan: &HqqPlan,
        first: usize,
        weights: &[[f32; ROW]],
        block: &mut ColumnBlock,
        errors: &mut [[f32; ROW]],
    ) {
        let columns = plan.affine.groups(plan.shape);
        let vectored = power::vectored(plan.n());
        let mut terms = vec![[0.0; ROW]; weights.len()];
        let rows = weights.iter().zip(errors).zip(&mut terms);
        let scales = block.scales.as_chunks::<LANES>().0;
        let zeros = block.zeros.as_chunks::<LANES>().0;
        for (r, ((weights, errors), terms)) in rows.enumerate() {
            let weights = weights.as_chunks::<LANES>().0;
            let errors = errors.as_chunks_mut::<LANES>().0;
            let terms = terms.as_chunks_mut::<LANES>().0;
            for part in 0..PARTS {
                let at = r * columns + first + part * LANES;
                let vectored = vectored.saturating_sub(at).min(LANES);
                solve::step(
                    &weights[part],
                    &scales[part],
                    &zeros[part],
                    plan.largest,
                    vectored,
                    &mut errors[part],
                    &mut terms[part],
                );
            }
        }
        let whole = reduce::whole_columns(columns).saturating_sub(first).min(ROW);
        let zeros = reduce::column_means(&terms, whole);
        block.still = zeros.map(f32::to_bits) == block.zeros.map(f32::to_bits);
        block.zeros = zeros;
    }
}

/// Weights of a job.
const JOB: usize = 4096;

for_processors! {
    /// Codes of weights from column `column` on.
    fn pack_job(
        plan: &HqqPlan,
        column: usize,
        bytes: &[u8],
        words: &mut [u32],
        scales: &[f32],
        zeros: &[f32],
    ) {
        let mut values = [0.0; JOB];
        let values = &mut values[..bytes.len() / plan.source.size()];
        plan.source.widen_here(bytes, values);
        let mut column = column;
        let mut rest = &mut *values;
        while !rest.is_empty() {
            // Neighbours are in neighbouring groups, up to the last one.
            let len = rest.len().min(scales.len() - column);
            let (values, after) = rest.split_at_mut(len);
            let params = scales[column..].iter().zip(&zeros[column..]);
            for (value, (scale, zero)) in values.iter_mut().zip(params) {
                *value = solve::code(*value, *scale, *zero, plan.largest);
            }
            (column, rest) = (0, after);
        }
        pack::pack_floats(plan.affine.bits, values, words);
    }
}

impl Packer for FirstAxisPacker {
    packer::in_order!();

    fn feed(&mut self, pass: usize, first_row: usize, tile: &[u8], words: &mut [u32]) {
        self.order.accept(pass, first_row, tile, words);
        let first = first_row * self.plan.shape[1];
        if pass == 0 {
            return self.see(first, tile);
        }
        if self.scales.is_empty() {
            self.scale();
        }
        let (plan, scales, zeros) = (self.plan, &self.scales, &self.zeros);
        let (source, bits) = (plan.source, plan.affine.bits);
        tile.par_chunks(JOB * source.size())
            .zip(words.par_chunks_mut(JOB / STREAM * bits))
            .enumerate()
            .for_each(|(job, (bytes, words))| {
                let column = (first + job * JOB) % scales.len();
                pack_job(&plan, column, bytes, words, scales, zeros);
            });
    }

    fn finish(mut self: Box<Self>) -> Vec<u32> {
        self.order.finish();
        if self.scales.is_empty() {
            self.scale();
        }
        self.plan.pairs(&self.scales, &self.zeros)
    }
}
