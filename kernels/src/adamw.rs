//! Steps of AdamW on the host (Loshchilov & Hutter, "Decoupled Weight Decay Regularization", arXiv:1711.05101).
//!
//! ```text
//! m = beta1 * m + (1 - beta1) * g         v = beta2 * v + (1 - beta2) * g²
//! p = (1 - lr * decay) * p - lr / (1 - beta1^t) * m / (√v / √(1 - beta2^t) + eps)
//! ```
//!
//! Everything is rounded where PyTorch 2.15 rounds it on a processor with fused products: [`step`] as `torch.optim.AdamW`,
//! [`step_blocks`] as the blockwise 8-bit AdamW of bitsandbytes, which writes the first line in another way. Roots are the
//! nearest ones; those of PyTorch, from MKL, are sometimes their neighbours. Constants are computed in `f64` and rounded once.

pub mod codes;

use rayon::prelude::*;

use crate::arith::lanes::vectorized;
use codes::{BLOCK, MomentCodes, SIGNED, UNSIGNED};

/// The settings of an optimizer that a step is made of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamwSettings {
    /// How much of the first moment stays.
    pub beta1: f64,
    /// How much of the second moment stays.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// How much of a parameter is taken away, times the learning rate.
    pub decay: f64,
}

/// The constants of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamwStep {
    /// `beta1` and `1 - beta1`.
    pub first: [f32; 2],
    /// `beta2` and `1 - beta2`.
    pub second: [f32; 2],
    /// `√(1 - beta2^t)`.
    pub root: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// `1 - lr * decay`.
    pub keep: f32,
    /// `-lr / (1 - beta1^t)`.
    pub rate: f32,
}

impl AdamwStep {
    /// Step number `time`, from 1 on, with the learning rate `lr`.
    pub fn new(settings: AdamwSettings, lr: f64, time: u64) -> Self {
        let AdamwSettings {
            beta1,
            beta2,
            eps,
            decay,
        } = settings;
        let correction = |beta: f64| 1.0 - beta.powf(time as f64);
        Self {
            first: [beta1 as f32, (1.0 - beta1) as f32],
            second: [beta2 as f32, (1.0 - beta2) as f32],
            root: correction(beta2).sqrt() as f32,
            eps: eps as f32,
            keep: (1.0 - lr * decay) as f32,
            rate: (-lr / correction(beta1)) as f32,
        }
    }

    /// The new second moment.
    #[inline(always)]
    fn second(&self, v: f32, g: f32) -> f32 {
        (self.second[1] * g).mul_add(g, v * self.second[0])
    }

    /// The new parameter, by the new moments.
    #[inline(always)]
    fn parameter(&self, p: f32, m: f32, v: f32) -> f32 {
        p * self.keep + self.rate * m / (v.sqrt() / self.root + self.eps)
    }
}

/// Values of a job: enough that handing it out costs nothing.
const JOB: usize = 64 * BLOCK;

/// A step of the parameters `p` by the gradients `g` with moments `m` and `v` in `f32`, all of one length.
pub fn step(step: AdamwStep, p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
    let parts = p.par_chunks_mut(JOB).zip(g.par_chunks(JOB));
    let moments = m.par_chunks_mut(JOB).zip(v.par_chunks_mut(JOB));
    parts.zip(moments).for_each(|((p, g), (m, v))| {
        vectorized(
            #[inline(always)]
            move || {
                for (((p, g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
                    *m = step.first[1].mul_add(g - *m, *m);
                    *v = step.second(*v, *g);
                    *p = step.parameter(*p, *m, *v);
                }
            },
        );
    });
}

/// The moments of a tensor as codes.
#[derive(Debug)]
pub struct CodedMoments<'a> {
    /// A code for each value.
    pub codes: &'a mut [u8],
    /// The absolute maximum of each [`BLOCK`], the last of which may be shorter.
    pub absmax: &'a mut [f32],
}

impl<'a> CodedMoments<'a> {
    /// The parts of jobs: codes and absolute maxima.
    fn jobs(self) -> impl IndexedParallelIterator<Item = (&'a mut [u8], &'a mut [f32])> {
        let codes = self.codes.par_chunks_mut(JOB);
        codes.zip(self.absmax.par_chunks_mut(JOB / BLOCK))
    }
}

/// A step of the parameters `p` by the gradients `g` with moments in 8 bits: they are decoded, the step is made, and the new
/// ones are encoded again, a block at a time.
pub fn step_blocks(
    step: AdamwStep,
    p: &mut [f32],
    g: &[f32],
    m: CodedMoments<'_>,
    v: CodedMoments<'_>,
) {
    let (signed, unsigned): (&MomentCodes, &MomentCodes) = (&SIGNED, &UNSIGNED);
    let parts = p.par_chunks_mut(JOB).zip(g.par_chunks(JOB));
    parts
        .zip(m.jobs().zip(v.jobs()))
        .for_each(|((p, g), (m, v))| {
            vectorized(
                #[inline(always)]
                move || {
                    let blocks = p.chunks_mut(BLOCK).zip(g.chunks(BLOCK));
                    let m = m.0.chunks_mut(BLOCK).zip(m.1);
                    let v = v.0.chunks_mut(BLOCK).zip(v.1);
                    for ((p, g), (m, v)) in blocks.zip(m.zip(v)) {
                        block(step, [signed, unsigned], p, g, m, v);
                    }
                },
            );
        });
}

/// One block.
#[inline(always)]
fn block(
    step: AdamwStep,
    [signed, unsigned]: [&MomentCodes; 2],
    p: &mut [f32],
    g: &[f32],
    (first, first_absmax): (&mut [u8], &mut f32),
    (second, second_absmax): (&mut [u8], &mut f32),
) {
    let (mut m, mut v) = ([0.0; BLOCK], [0.0; BLOCK]);
    let (m, v) = (&mut m[..p.len()], &mut v[..p.len()]);
    signed.decode(first, *first_absmax, m);
    unsigned.decode(second, *second_absmax, v);
    for (((p, g), m), v) in p.iter_mut().zip(g).zip(&mut *m).zip(&mut *v) {
        *m = step.first[1].mul_add(*g, *m * step.first[0]);
        *v = step.second(*v, *g);
        *p = step.parameter(*p, *m, *v);
    }
    *first_absmax = signed.encode(m, first);
    *second_absmax = unsigned.encode(v, second);
}

/// Sums side by side.
const SUMS: usize = 16;

/// The sum of squares, in `f64` and in an order that no number of threads changes.
pub fn squares(values: &[f32]) -> f64 {
    let jobs = values.par_chunks(JOB).map(|values| {
        vectorized(
            #[inline(always)]
            move || {
                let (rows, rest) = values.as_chunks::<SUMS>();
                let mut sums = [0.0; SUMS];
                for row in rows {
                    for (sum, value) in sums.iter_mut().zip(row) {
                        *sum += f64::from(*value) * f64::from(*value);
                    }
                }
                let rest = rest.iter().map(|value| f64::from(*value).powi(2));
                sums.into_iter().chain(rest).sum::<f64>()
            },
        )
    });
    // Collected in order first.
    jobs.collect::<Vec<f64>>().into_iter().sum()
}
