//! Inputs as signed bytes, with a scale for each block.

use rayon::prelude::*;

use super::super::dot::{INPUTS, for_panels};
use super::weight::{ByteWeight, FOUR};
use crate::arith::lanes::for_processors;

/// The largest byte.
const MOST: f32 = 127.0;

/// Inputs in panels, zeros after the last column.
pub(super) struct ByteInputs {
    m: usize,
    cols: usize,
    blocks: usize,
    /// Of each panel `[cols / 4, panel, 4]`.
    bytes: Vec<i8>,
    /// Of each panel `[blocks, panel]`: times a byte, it is about the input.
    scales: Vec<f32>,
    /// The same of the scale times the sum of the bytes.
    sums: Vec<f32>,
    /// The same of the sum times the byte of 0 of the weight, negated.
    starts: Vec<i32>,
}

/// One panel of [`ByteInputs`].
#[derive(Debug, Clone, Copy)]
pub(super) struct InputPanel<'a, const M: usize> {
    /// `[cols / 4]`.
    pub(super) bytes: &'a [[[i8; FOUR]; M]],
    /// `[blocks]`, as the other two.
    pub(super) scales: &'a [[f32; M]],
    pub(super) sums: &'a [[f32; M]],
    pub(super) starts: &'a [[i32; M]],
}

impl ByteInputs {
    /// Inputs `[m, i]` to a weight.
    pub(super) fn new(x: &[f32], weight: &ByteWeight<'_>) -> Self {
        let (i, cols, blocks) = (weight.shape[1], weight.cols(), weight.blocks);
        let m = x.len() / i;
        let mut all = Self {
            m,
            cols,
            blocks,
            bytes: vec![0; m * cols],
            scales: vec![0.0; m * blocks],
            sums: vec![0.0; m * blocks],
            starts: vec![0; m * blocks],
        };
        let Self {
            bytes,
            scales,
            sums,
            starts,
            ..
        } = &mut all;
        let panels = (
            bytes.par_chunks_mut(INPUTS * cols),
            x.par_chunks(INPUTS * i),
        );
        let params = (
            scales.par_chunks_mut(INPUTS * blocks),
            sums.par_chunks_mut(INPUTS * blocks),
            starts.par_chunks_mut(INPUTS * blocks),
        );
        let zero = i32::from(weight.zero);
        (panels, params).into_par_iter().for_each_init(
            || vec![0; cols],
            |row, ((bytes, x), (scales, sums, starts))| {
                let mut x = x.chunks_exact(i);
                for_panels(x.len(), |first, panel| {
                    for (k, x) in x.by_ref().take(panel).enumerate() {
                        let at = first * blocks + k;
                        for (block, (x, bytes)) in x
                            .chunks(weight.block)
                            .zip(row.chunks_exact_mut(weight.block))
                            .enumerate()
                        {
                            let (scale, sum) = round(x, bytes);
                            let at = at + block * panel;
                            scales[at] = scale;
                            sums[at] = scale * sum as f32;
                            starts[at] = -zero * sum;
                        }
                        let to = bytes[first * cols..].as_chunks_mut::<FOUR>().0;
                        let to = to.iter_mut().skip(k).step_by(panel);
                        for (to, four) in to.zip(row.as_chunks().0) {
                            *to = *four;
                        }
                    }
                });
            },
        );
        all
    }

    /// Inputs.
    pub(super) fn len(&self) -> usize {
        self.m
    }

    /// The panel of the inputs from `first` on.
    pub(super) fn panel<const M: usize>(&self, first: usize) -> InputPanel<'_, M> {
        let (bytes, params) = (first * self.cols, first * self.blocks);
        let params = params..params + M * self.blocks;
        let bytes = &self.bytes[bytes..bytes + M * self.cols];
        InputPanel {
            bytes: bytes.as_chunks::<FOUR>().0.as_chunks().0,
            scales: self.scales[params.clone()].as_chunks().0,
            sums: self.sums[params.clone()].as_chunks().0,
            starts: self.starts[params].as_chunks().0,
        }
    }
}

for_processors! {
    /// Rounds a block to bytes; gives their scale and their sum. One value that is not finite makes the scale NaN.
    fn round(x: &[f32], bytes: &mut [i8]) -> (f32, i32) {
        let mut largest = 0.0f32;
        // 0 of every number, and otherwise NaN.
        let mut odd = 0.0f32;
        for value in x {
            largest = if value.abs() > largest { value.abs() } else { largest };
            odd += value * 0.0;
        }
        let scale = largest / MOST + odd;
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        let mut sum = 0;
        for (to, value) in bytes.iter_mut().zip(x) {
            // At 1.5 * 2^23 an f32 steps by 1: the adder rounds, and the low bits are the number's.
            *to = (value * inverse + 12_582_912.0).to_bits() as i8;
            sum += i32::from(*to);
        }
        (scale, sum)
    }
}
