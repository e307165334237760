//! Groups that are columns of the weight written down as `[group, n / group]`: all groups a step at a time.

use rayon::prelude::*;

use super::Plan;
use super::power::{self, LANES};
use super::solve::{self, STEPS, for_processors};
use crate::float::range;
use crate::format::{Format, Packed};
use crate::pack::{self, STREAM};
use crate::packer::{Order, Packer};
use crate::reduce::running::Running;
use crate::reduce::{self, ROW};

/// Rows of lanes in a row of the sums.
const PARTS: usize = ROW / LANES;

/// Weights along the first axis.
pub(super) struct Columns {
    plan: Plan,
    order: Order,
    /// The weights, widened, in blocks of 32 columns: `[blocks, group, 32]`.
    weights: Vec<[f32; ROW]>,
}

/// What the groups of a block of columns have, and are left with.
#[derive(Clone)]
struct Block {
    scales: [f32; ROW],
    zeros: [f32; ROW],
    /// Whether no zero moves any more, so that the next step is the last one again.
    still: bool,
}

impl Columns {
    pub(super) fn new(plan: Plan) -> Self {
        let blocks = plan.affine.groups(plan.shape).div_ceil(ROW);
        Self {
            plan,
            order: Order::new(plan.shape, plan.source, 1, 1),
            weights: vec![[0.0; ROW]; blocks * plan.affine.group],
        }
    }
}

/// Calls `take` with each run of weights that a block has next to each other, in their order, from weight `first` on:
/// where in the values they begin, in which row of all blocks and from which column on, and how many.
fn runs(plan: &Plan, first: usize, len: usize, mut take: impl FnMut(usize, usize, usize, usize)) {
    let (group, columns) = (plan.affine.group, plan.affine.groups(plan.shape));
    let mut done = 0;
    while done < len {
        let (row, column) = ((first + done) / columns, (first + done) % columns);
        let run = (ROW - column % ROW).min(columns - column).min(len - done);
        take(done, column / ROW * group + row, column % ROW, run);
        done += run;
    }
}

/// First scales and zeros of the groups of a block.
fn begin(plan: &Plan, weights: &[[f32; ROW]]) -> Block {
    let (mut scales, mut zeros) = ([0.0; ROW], [0.0; ROW]);
    let mut column = vec![0.0; weights.len()];
    for (k, (scale, zero)) in scales.iter_mut().zip(&mut zeros).enumerate() {
        for (to, row) in column.iter_mut().zip(weights) {
            *to = row[k];
        }
        let (min, max) = range(&column);
        (*scale, *zero) = plan.scaling(min, max);
    }
    Block {
        scales,
        zeros,
        still: false,
    }
}

for_processors! {
    /// One step of the groups of the block that begins at column `first`.
    fn step(
        plan: &Plan,
        first: usize,
        weights: &[[f32; ROW]],
        block: &mut Block,
        errors: &mut [[f32; ROW]],
    ) -> () {
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

/// Codes of the weights of a block, in place.
fn choose(plan: &Plan, block: &Block, weights: &mut [[f32; ROW]]) {
    for row in weights {
        let params = block.scales.iter().zip(&block.zeros);
        for (weight, (scale, zero)) in row.iter_mut().zip(params) {
            *weight = solve::code(*weight, *scale, *zero, plan.largest);
        }
    }
}

impl Packer for Columns {
    fn passes(&self) -> usize {
        self.order.passes()
    }

    fn tile_rows(&self) -> usize {
        self.order.tile_rows()
    }

    fn feed(&mut self, pass: usize, first_row: usize, tile: &[u8]) {
        self.order.accept(pass, first_row, tile);
        let (source, weights) = (self.plan.source, &mut self.weights);
        let first = first_row * self.plan.shape[1];
        let len = tile.len() / source.size();
        runs(&self.plan, first, len, |from, row, column, run| {
            let bytes = &tile[from * source.size()..][..run * source.size()];
            source.widen(bytes, &mut weights[row][column..][..run]);
        });
    }

    fn finish(self: Box<Self>) -> Packed {
        self.order.finish();
        let Self {
            plan, mut weights, ..
        } = *self;
        let (group, n) = (plan.affine.group, plan.n());
        let mut blocks: Vec<Block> = weights
            .par_chunks(group)
            .map(|weights| begin(&plan, weights))
            .collect();

        if plan.solve && n > 0 {
            let mut errors = vec![[0.0; ROW]; weights.len()];
            let mut best = f32::INFINITY;
            for _ in 0..STEPS {
                weights
                    .par_chunks(group)
                    .zip(&mut blocks)
                    .zip(errors.par_chunks_mut(group))
                    .enumerate()
                    .filter(|(_, ((_, block), _))| !block.still)
                    .for_each(|(k, ((weights, block), errors))| {
                        step(&plan, k * ROW, weights, block, errors);
                    });
                let mut sum = Running::new(n);
                runs(&plan, 0, n, |_, row, column, run| {
                    sum.push(&errors[row][column..][..run]);
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

        weights
            .par_chunks_mut(group)
            .zip(&blocks)
            .for_each(|(weights, block)| choose(&plan, block, weights));
        let format = Format::Affine(plan.affine);
        let mut words = vec![0; format.words_len(plan.shape)];
        const JOB: usize = 4096;
        words
            .par_chunks_mut(JOB / STREAM * plan.affine.bits)
            .enumerate()
            .for_each(|(job, words)| {
                let mut codes = [0.0; JOB];
                let codes = &mut codes[..JOB.min(n - job * JOB)];
                runs(&plan, job * JOB, codes.len(), |to, row, column, run| {
                    codes[to..][..run].copy_from_slice(&weights[row][column..][..run]);
                });
                pack::pack_floats(plan.affine.bits, codes, words);
            });

        let groups = plan.affine.groups(plan.shape);
        let flat = |of: fn(&Block) -> &[f32; ROW]| -> Vec<f32> {
            blocks.iter().flat_map(of).copied().take(groups).collect()
        };
        Packed {
            format,
            shape: plan.shape,
            words,
            scales: plan.pairs(&flat(|block| &block.scales), &flat(|block| &block.zeros)),
        }
    }
}
