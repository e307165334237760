//! Rows of heads, in the type and the order that they are kept in.

use half::{bf16, f16, slice::HalfFloatSliceExt};

/// Rows `[b, n, t, d]` of `n` heads, whose `d` features lie one after another.
#[derive(Debug, Clone, Copy)]
pub struct HeadRows<'a> {
    /// The numbers.
    pub values: HeadValues<'a>,
    /// `[b, n, t, d]`.
    pub shape: [usize; 4],
    /// The first number.
    pub start: usize,
    /// From one sequence, head and token to the next, in numbers.
    pub strides: [usize; 3],
}

/// Numbers of one type.
#[derive(Debug, Clone, Copy)]
pub enum HeadValues<'a> {
    /// Singles.
    F32(&'a [f32]),
    /// Halves.
    F16(&'a [f16]),
    /// Halves with the range of singles.
    Bf16(&'a [bf16]),
    /// Whole numbers, each row with a factor.
    Scaled(&'a [i8], RowScales<'a>),
}

/// A factor for each row of `[b, n, t]`.
#[derive(Debug, Clone, Copy)]
pub struct RowScales<'a> {
    /// The numbers.
    pub values: &'a [f32],
    /// The first of them.
    pub start: usize,
    /// From one sequence, head and token to the next.
    pub strides: [usize; 3],
}

/// The rows of one head of one sequence.
#[derive(Debug, Clone, Copy)]
pub(super) struct OneHead<'a> {
    rows: HeadRows<'a>,
    at: [usize; 2],
}

impl<'a> HeadRows<'a> {
    /// Rows that lie one after another, `[b, n, t, d]`.
    pub fn contiguous(values: HeadValues<'a>, shape: [usize; 4]) -> Self {
        let [_, n, t, d] = shape;
        Self {
            values,
            shape,
            start: 0,
            strides: [n * t * d, t * d, d],
        }
    }

    /// All rows of one head.
    pub(super) fn head(self, sequence: usize, head: usize) -> OneHead<'a> {
        OneHead {
            rows: self,
            at: [sequence, head],
        }
    }
}

impl OneHead<'_> {
    /// The features of a row.
    pub(super) fn features(&self) -> usize {
        self.rows.shape[3]
    }

    /// The row `token` as `f32`, into `to` `[d]`.
    #[inline(always)]
    pub(super) fn read(&self, token: usize, to: &mut [f32]) {
        let HeadRows {
            values,
            start,
            strides,
            ..
        } = self.rows;
        let [sequence, head] = self.at;
        let place = |start: usize, strides: [usize; 3]| {
            start + sequence * strides[0] + head * strides[1] + token * strides[2]
        };
        let at = place(start, strides);
        let at = at..at + to.len();
        match values {
            HeadValues::F32(values) => to.copy_from_slice(&values[at]),
            HeadValues::F16(values) => values[at].convert_to_f32_slice(to),
            HeadValues::Bf16(values) => {
                let bits: &[u16] = values[at].reinterpret_cast();
                for (to, bits) in to.iter_mut().zip(bits) {
                    *to = f32::from_bits(u32::from(*bits) << 16);
                }
            }
            HeadValues::Scaled(codes, scales) => {
                let scale = scales.values[place(scales.start, scales.strides)];
                for (to, code) in to.iter_mut().zip(&codes[at]) {
                    *to = f32::from(*code) * scale;
                }
            }
        }
    }
}
