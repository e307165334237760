//! Groups of consecutive weights: all steps of a group at once.

use rayon::prelude::*;

use super::plan::HqqPlan;
use super::power::{self, LANES};
use super::solve::{self, STEPS};
use crate::arith::float::{join_ranges, range, range_stored};
use crate::arith::lanes::for_processors;
use crate::arith::pack::{self, STREAM};
use crate::arith::reduce;
use crate::arith::reduce::running::{RunningSum, chunk_sum};
use crate::arith::whole;
use crate::packer::{self, FeedOrder, Packer};

/// Weights of a job, about: their errors of all steps stay in the second cache.
const JOB: usize = 2048;

/// Groups that take their steps together, so that the processor does not wait for the sum of one.
const PAIR: usize = 2;

/// Jobs whose sums are kept at a time.
const JOBS: usize = 512;

/// Weights along the last axis, or all of them in one group.
pub(super) struct LastAxisPacker {
    plan: HqqPlan,
    /// One group of all weights.
    all: bool,
    order: FeedOrder,
    /// The factor of each group's weights.
    scales: Vec<f32>,
    /// The last zero of each group.
    zeros: Vec<f32>,
    /// The zeros of each group after each step.
    paths: Vec<[f32; STEPS]>,
    /// Sums of the errors before each step.
    sums: Vec<RunningSum>,
    /// The range so far, where all weights are one group.
    ends: (f32, f32),
    /// Whether the zeros are known.
    ready: bool,
}

impl LastAxisPacker {
    pub(super) fn new(plan: HqqPlan, all: bool) -> Self {
        let shape = plan.shape;
        let groups = plan.affine.groups(shape);
        Self {
            plan,
            all,
            order: plan.order(),
            scales: vec![0.0; groups],
            zeros: vec![0.0; groups],
            paths: vec![[0.0; STEPS]; if plan.solve { groups } else { 0 }],
            sums: vec![RunningSum::new(plan.n()); if plan.solve { STEPS } else { 0 }],
            ends: (f32::INFINITY, f32::NEG_INFINITY),
            ready: false,
        }
    }

    /// Takes the groups of a tile through all steps.
    fn solve(&mut self, first: usize, tile: &[u8]) {
        let plan = self.plan;
        let (source, group) = (plan.source, plan.affine.group);
        let each = (JOB / group).max(1);
        let chunk = RunningSum::chunk(plan.n());
        let groups = first / group;
        let count = tile.len() / source.size() / group;
        let batches = tile.chunks(JOBS * each * group * source.size());
        let scales = self.scales[groups..][..count].chunks_mut(JOBS * each);
        let paths = self.paths[groups..][..count].chunks_mut(JOBS * each);
        for (batch, ((tile, scales), paths)) in batches.zip(scales).zip(paths).enumerate() {
            let jobs = tile
                .par_chunks(each * group * source.size())
                .zip(scales.par_chunks_mut(each))
                .zip(paths.par_chunks_mut(each));
            let errors = jobs.enumerate().map(|(job, ((bytes, scales), paths))| {
                let first = first + (batch * JOBS + job) * each * group;
                solve_job(&plan, first, bytes, scales, paths, chunk)
            });
            let errors: Vec<JobErrors> = errors.collect();
            self.sums
                .par_iter_mut()
                .enumerate()
                .for_each(|(step, sum)| {
                    errors.iter().for_each(|errors| errors.add(step, sum));
                });
        }
    }

    /// Chooses the zeros, now that all errors are known.
    fn stop(&mut self) {
        self.ready = true;
        if self.all {
            let (scale, zero) = self.plan.scaling(self.ends.0, self.ends.1);
            self.scales.fill(scale);
            self.zeros.fill(zero);
        } else if self.plan.solve {
            let n = self.plan.n() as f32;
            let errors: Vec<f32> = self.sums.iter().map(|sum| sum.finish() / n).collect();
            let errors = errors.try_into().expect("an error a step");
            let last = solve::steps(&errors) - 1;
            for (zero, path) in self.zeros.iter_mut().zip(&self.paths) {
                *zero = path[last];
            }
            self.paths = Vec::new();
        }
    }

    /// Chooses codes, and scales and zeros where that is all there is to them.
    fn pack(&mut self, first: usize, tile: &[u8], words: &mut [u32]) {
        let plan = self.plan;
        let (source, bits) = (plan.source, plan.affine.bits);
        let group = plan.affine.group;
        let scale_here = !self.ready;
        if self.all {
            let (scale, zero) = (self.scales[0], self.zeros[0]);
            tile.par_chunks(JOB * source.size())
                .zip(words.par_chunks_mut(JOB / STREAM * bits))
                .for_each(|(bytes, words)| {
                    pack_job(&plan, JOB, bytes, words, &[scale], &[zero]);
                });
            return;
        }
        // Whole groups and whole words.
        let unit = whole::multiple(group, STREAM);
        let job = unit * (JOB / unit).max(1);
        let scales = &mut self.scales[first / group..];
        let zeros = &mut self.zeros[first / group..];
        tile.par_chunks(job * source.size())
            .zip(words.par_chunks_mut(job / STREAM * bits))
            .zip(scales.par_chunks_mut(job / group))
            .zip(zeros.par_chunks_mut(job / group))
            .for_each(|(((bytes, words), scales), zeros)| {
                if scale_here {
                    scale_job(&plan, bytes, scales, zeros);
                }
                pack_job(&plan, group, bytes, words, scales, zeros);
            });
    }
}

for_processors! {
    /// Scales and first zeros of the groups of a job.
    fn scale_job(plan: &HqqPlan, bytes: &[u8], scales: &mut [f32], zeros: &mut [f32]) {
        let groups = bytes.chunks_exact(plan.affine.group * plan.source.size());
        for ((scale, zero), bytes) in scales.iter_mut().zip(zeros).zip(groups) {
            let (min, max) = range(plan.source, bytes);
            (*scale, *zero) = plan.scaling(min, max);
        }
    }
}

for_processors! {
    /// Codes of the groups of a job.
    fn pack_job(
        plan: &HqqPlan,
        group: usize,
        bytes: &[u8],
        words: &mut [u32],
        scales: &[f32],
        zeros: &[f32],
    ) {
        let mut values = vec![0.0; bytes.len() / plan.source.size()];
        plan.source.widen_here(bytes, &mut values);
        for ((values, scale), zero) in values.chunks_mut(group).zip(scales).zip(zeros) {
            for value in values {
                *value = solve::code(*value, *scale, *zero, plan.largest);
            }
        }
        pack::pack_floats(plan.affine.bits, &values, words);
    }
}

/// The errors of a job, for the sums: values up to the first chunk of the sum, chunks added up, values after the
/// last one; `[STEPS, head + chunks * ROW + tail]`.
struct JobErrors {
    head: usize,
    chunks: usize,
    tail: usize,
    values: Vec<f32>,
}

impl JobErrors {
    /// From the errors of all steps, `[STEPS, n]`, of weights that begin at weight `first`.
    #[inline(always)]
    fn new(first: usize, n: usize, chunk: usize, errors: &[f32]) -> Self {
        let head = (chunk - first % chunk) % chunk;
        let head = head.min(n);
        let chunks = (n - head) / chunk;
        let tail = n - head - chunks * chunk;
        let mut values = Vec::with_capacity(STEPS * (head + chunks * reduce::ROW + tail));
        for errors in errors.chunks_exact(n) {
            values.extend_from_slice(&errors[..head]);
            let (whole, tail) = errors[head..].split_at(chunks * chunk);
            for errors in whole.chunks_exact(chunk) {
                values.extend_from_slice(&chunk_sum(errors));
            }
            values.extend_from_slice(tail);
        }
        Self {
            head,
            chunks,
            tail,
            values,
        }
    }

    fn add(&self, step: usize, sum: &mut RunningSum) {
        let len = self.head + self.chunks * reduce::ROW + self.tail;
        let (head, rest) = self.values[step * len..][..len].split_at(self.head);
        let (chunks, tail) = rest.split_at(self.chunks * reduce::ROW);
        sum.push(head);
        for chunk in chunks.as_chunks().0 {
            sum.push_chunk(chunk);
        }
        sum.push(tail);
    }
}

for_processors! {
    /// Takes the groups of some weights, which begin at weight `first`, through all steps: their scales, their zeros
    /// after each step, and their errors for sums in chunks of `chunk`.
    fn solve_job(
        plan: &HqqPlan,
        first: usize,
        bytes: &[u8],
        scales: &mut [f32],
        paths: &mut [[f32; STEPS]],
        chunk: usize,
    ) -> JobErrors {
        let (group, source) = (plan.affine.group, plan.source);
        let mut weights = vec![0.0; bytes.len() / source.size()];
        source.widen_here(bytes, &mut weights);
        let n = weights.len();
        let vectored = power::vectored(plan.n()) - first.min(power::vectored(plan.n()));
        let mut errors = vec![0.0; STEPS * n];
        // Groups are filled up to whole lanes with zeros, whose errors go nowhere.
        let chunks = group.div_ceil(LANES);
        let mut scratch = vec![[[0.0; LANES]; 2]; PAIR * chunks];
        let mut terms = vec![[0.0; LANES]; PAIR * chunks];
        let pairs = scales.chunks_mut(PAIR).zip(paths.chunks_mut(PAIR));
        let pairs = weights.chunks(PAIR * group).zip(pairs);
        for (at, (weights, (scales, paths))) in (0..).step_by(PAIR * group).zip(pairs) {
            let mut zeros = [0.0; PAIR];
            for (g, scale) in scales.iter_mut().enumerate() {
                let bytes = &bytes[(at + g * group) * source.size()..][..group * source.size()];
                let (min, max) = range(source, bytes);
                (*scale, zeros[g]) = plan.scaling(min, max);
                let lanes = scratch[g * chunks..].iter_mut();
                for ([to, _], weights) in lanes.zip(weights[g * group..][..group].chunks(LANES)) {
                    to[..weights.len()].copy_from_slice(weights);
                }
            }
            let (mut step, mut still) = (0, false);
            while step < STEPS && !still {
                still = true;
                for (g, (scale, path)) in scales.iter().zip(&mut *paths).enumerate() {
                    let at = at + g * group;
                    let (scales, zero) = ([*scale; LANES], [zeros[g]; LANES]);
                    let lanes = scratch[g * chunks..].iter_mut();
                    let terms = &mut terms[g * chunks..][..chunks];
                    for (k, ([weights, errors], terms)) in lanes.zip(&mut *terms).enumerate() {
                        let vectored = vectored.saturating_sub(at + k * LANES).min(LANES);
                        solve::step(weights, &scales, &zero, plan.largest, vectored, errors, terms);
                    }
                    let to = &mut errors[step * n + at..][..group];
                    for (to, [_, errors]) in to.chunks_mut(LANES).zip(&scratch[g * chunks..]) {
                        to.copy_from_slice(&errors[..to.len()]);
                    }
                    let next = reduce::mean_here(&terms.as_flattened()[..group]);
                    still &= next.to_bits() == zeros[g].to_bits();
                    (zeros[g], path[step]) = (next, next);
                }
                step += 1;
            }
            // All further steps are the last one again.
            for again in step..STEPS {
                paths.iter_mut().for_each(|path| path[again] = path[step - 1]);
                let from = (step - 1) * n + at;
                errors.copy_within(from..from + weights.len(), again * n + at);
            }
        }

        JobErrors::new(first, n, chunk, &errors)
    }
}

impl Packer for LastAxisPacker {
    packer::in_order!();

    fn feed(&mut self, pass: usize, first_row: usize, tile: &[u8], words: &mut [u32]) {
        self.order.accept(pass, first_row, tile, words);
        if tile.is_empty() {
            return;
        }
        let first = first_row * self.plan.shape[1];
        if pass + 1 == self.order.passes() {
            if pass > 0 && !self.ready {
                self.stop();
            }
            self.pack(first, tile, words);
        } else if self.all {
            self.ends = join_ranges(self.ends, range_stored(self.plan.source, tile));
        } else {
            self.solve(first, tile);
        }
    }

    fn finish(self: Box<Self>) -> Vec<u32> {
        self.order.finish();
        self.plan.pairs(&self.scales, &self.zeros)
    }
}
