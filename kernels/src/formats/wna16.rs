//! Whole numbers as compressed-tensors chooses them: from the largest magnitude or the range of each group, every step
//! rounded to the weight's own type.
//!
//! ```text
//! symmetric    scale = round(max |w| / (steps / 2))         steps = 2^bits - 1, also for the half
//!              code  = rint(clamp(round(w / scale)))                        between -2^(bits-1) and 2^(bits-1) - 1
//! asymmetric   scale = round(round(max - min) / steps)      min and max with 0 among them
//!              zero  = rint(clamp(round(least - round(min / scale))))       least = -2^(bits-1)
//!              code  = rint(clamp(round(round(w / scale) + zero)))
//! weight[k] = (code[k] - zero[g]) * scale[g]
//! ```
//!
//! Those are the bits of compressed-tensors 0.20 with llm-compressor's `memoryless_minmax` observer: its schemes
//! W4A16, W8A16 and the weights of W8A8, with other widths. What is stored here counts codes from 0: both code and
//! zero are larger by `2^(bits-1)`, as in its packed files. The reference rounds to the weight's type what is
//! `f32` here, once, so that a caller who rounds to it has the same bits.
//!
//! # Values after dequantizing
//!
//! | the group holds | it dequantizes to |
//! |---|---|
//! | a NaN or an infinity | NaN everywhere |
//! | a range that the type cannot hold | NaN everywhere |
//! | zeros only | `+0` |
//! | so little that the scale rounds to 0 | 0 |
//! | anything else | weights off by half a step, the ends by a whole one where rounding the scale moved them |
//!
//! Letters: `o` rows, `i` columns, `n = o * i`.

use rayon::prelude::*;

use crate::arith::float::{DType, epsilon, join_ranges, range, range_stored};
use crate::arith::lanes::for_processors;
use crate::arith::pack::{self, STREAM};
use crate::arith::whole;
use crate::format::FormatError;
use crate::format::{Affine, Along, Format, Offset};
use crate::packer::{self, FeedOrder, Packer};

/// How codes are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Wna16 {
    /// Bits of a code: 2, 3, 4, 5, 6 or 8.
    pub bits: usize,
    /// Which weights share a scale: its `strategy`.
    pub scale: ScaleGroup,
    /// Whether the zero is in the middle, instead of where the group's range puts it.
    pub symmetric: bool,
}

/// Which weights share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum ScaleGroup {
    /// This many of a row, which is whole groups.
    Group(usize),
    /// Each row.
    Channel,
    /// The whole weight.
    Tensor,
}

impl Wna16 {
    /// The format that a weight of `shape` `[o, i]`, stored as `source`, is packed into.
    ///
    /// # Errors
    ///
    /// [`FormatError::Bits`], [`FormatError::EmptyGroup`], and [`FormatError::Columns`] where rows are not whole
    /// groups.
    pub fn format(self, shape: [usize; 2], source: DType) -> Result<Format, FormatError> {
        self.affine(shape, source).map(Format::Affine)
    }

    fn affine(self, [o, cols]: [usize; 2], source: DType) -> Result<Affine, FormatError> {
        if !matches!(self.bits, 2..=6 | 8) {
            let (found, least) = (self.bits, 2);
            return Err(FormatError::Bits { found, least });
        }
        let group = match self.scale {
            ScaleGroup::Group(group) => group,
            ScaleGroup::Channel => cols.max(1),
            ScaleGroup::Tensor => o.saturating_mul(cols).max(1),
        };
        let affine = Affine::new(self.bits, group, Along::Flat, Offset::Zero, source)?;
        if self.scale != ScaleGroup::Tensor && !cols.is_multiple_of(group) {
            return Err(FormatError::Columns { cols, group });
        }
        Ok(affine)
    }

    /// Packs a weight of `shape` `[o, i]` that is stored as `source`. Two passes with one scale for the whole weight,
    /// else one.
    ///
    /// # Errors
    ///
    /// As [`format`](Self::format), and [`FormatError::Size`].
    pub fn packer(self, shape: [usize; 2], source: DType) -> Result<Box<dyn Packer>, FormatError> {
        packer::check_size(shape)?;
        let affine = self.affine(shape, source)?;
        let format = Format::Affine(affine);
        Ok(Box::new(Wna16Packer {
            method: self,
            source,
            affine,
            order: FeedOrder::new(format, shape, source, self.tile_rows(shape), self.passes()),
            scales: vec![0; format.scales_len(shape)],
            ends: (f32::INFINITY, f32::NEG_INFINITY),
        }))
    }

    /// How often a weight is read.
    pub(crate) fn passes(self) -> usize {
        if self.scale == ScaleGroup::Tensor {
            2
        } else {
            1
        }
    }

    /// Rows of a weight of `shape` that have to stay together: they are whole groups, or there is one group.
    pub(crate) const fn tile_rows(self, shape: [usize; 2]) -> usize {
        whole::tile_rows(shape, 1, STREAM)
    }

    /// Smallest and largest code, before they are moved up.
    #[inline(always)]
    fn bounds(self) -> [f32; 2] {
        let half = (1u32 << (self.bits - 1)) as f32;
        [-half, half - 1.0]
    }

    /// Scale and zero of a group between `min` and `max`.
    #[inline(always)]
    fn scaling(self, (min, max): (f32, f32), source: DType) -> (f32, f32) {
        let [least, most] = self.bounds();
        let steps = most - least;
        // NaN stays.
        let min = if min > 0.0 { 0.0 } else { min };
        let max = if max < 0.0 { 0.0 } else { max };
        let (scale, zero) = if self.symmetric {
            let largest = if min.abs() > max.abs() {
                min.abs()
            } else {
                max
            };
            (source.round(largest / (steps / 2.0)), 0.0)
        } else {
            let scale = source.round(source.round(max - min) / steps);
            let zero = source.round(least - source.round(min / scale));
            // NaN becomes 0, as where the reference casts it.
            let zero = if zero.is_nan() { 0.0 } else { zero };
            (scale, zero.clamp(least, most).round_ties_even())
        };
        let scale = if scale == 0.0 { epsilon(source) } else { scale };
        // Which NaN a quotient is differs between processors.
        (if scale.is_nan() { f32::NAN } else { scale }, zero)
    }

    /// Weights to codes from 0 on, in place.
    #[inline(always)]
    fn choose(self, values: &mut [f32], scale: f32, zero: f32, source: DType) {
        // The type is known to the compiler in each.
        match source {
            DType::F32 => self.choose_with(values, scale, zero, |v| v),
            DType::F16 => self.choose_with(values, scale, zero, |v| DType::F16.round(v)),
            DType::Bf16 => self.choose_with(values, scale, zero, |v| DType::Bf16.round(v)),
        }
    }

    #[inline(always)]
    fn choose_with(self, values: &mut [f32], scale: f32, zero: f32, round: impl Fn(f32) -> f32) {
        let [least, most] = self.bounds();
        for value in values {
            let code = round(round(*value / scale) + zero);
            // Under an infinite scale NaN must become NaN, as all others do.
            let code = if code.is_nan() { zero } else { code };
            let code = if code > least { code } else { least };
            let code = if code < most { code } else { most };
            // At 1.5 * 2^23 an f32 steps by 1: the adder rounds.
            const WHOLE: f32 = 12_582_912.0;
            *value = ((code + WHOLE) - WHOLE) - least;
        }
    }
}

struct Wna16Packer {
    method: Wna16,
    source: DType,
    affine: Affine,
    order: FeedOrder,
    scales: Vec<u32>,
    /// The range so far, where there is one scale.
    ends: (f32, f32),
}

for_processors! {
    /// Chooses the codes of a job under one scale.
    fn pack_with(
        method: Wna16,
        source: DType,
        scale: f32,
        zero: f32,
        bytes: &[u8],
        words: &mut [u32],
    ) {
        let mut values = vec![0.0; bytes.len() / source.size()];
        source.widen_here(bytes, &mut values);
        method.choose(&mut values, scale, zero, source);
        pack::pack_floats(method.bits, &values, words);
    }
}

for_processors! {
    /// Chooses scales, zeros and codes of the groups of a job.
    fn pack_groups(
        method: Wna16,
        source: DType,
        affine: Affine,
        bytes: &[u8],
        words: &mut [u32],
        scales: &mut [u32],
    ) {
        let mut values = vec![0.0; bytes.len() / source.size()];
        source.widen_here(bytes, &mut values);
        let groups = values
            .chunks_exact_mut(affine.group)
            .zip(bytes.chunks_exact(affine.group * source.size()));
        for ((values, bytes), pair) in groups.zip(scales.chunks_exact_mut(affine.param_words())) {
            let (scale, zero) = method.scaling(range(source, bytes), source);
            affine.store(scale, zero - method.bounds()[0], pair);
            method.choose(values, scale, zero, source);
        }
        pack::pack_floats(method.bits, &values, words);
    }
}

/// Weights of a job, about.
const JOB: usize = 4096;

impl Packer for Wna16Packer {
    packer::in_order!();

    fn feed(&mut self, pass: usize, first_row: usize, tile: &[u8], words: &mut [u32]) {
        self.order.accept(pass, first_row, tile, words);
        if tile.is_empty() {
            return;
        }
        let Self {
            method,
            source,
            affine,
            ..
        } = *self;
        if pass + 1 < self.order.passes() {
            self.ends = join_ranges(self.ends, range_stored(source, tile));
            return;
        }
        let all = (method.scale == ScaleGroup::Tensor).then(|| method.scaling(self.ends, source));
        let bits = affine.bits;
        if let Some((scale, zero)) = all {
            affine.store(scale, zero - method.bounds()[0], &mut self.scales);
            tile.par_chunks(JOB * source.size())
                .zip(words.par_chunks_mut(JOB / STREAM * bits))
                .for_each(|(bytes, words)| {
                    pack_with(method, source, scale, zero, bytes, words);
                });
            return;
        }
        // Whole groups and whole words.
        let unit = whole::multiple(affine.group, STREAM);
        let job = unit * (JOB / unit).max(1);
        let size = affine.param_words();
        let first = first_row * self.order.shape[1];
        let scales = &mut self.scales[first / affine.group * size..];
        tile.par_chunks(job * source.size())
            .zip(words.par_chunks_mut(job / STREAM * bits))
            .zip(scales.par_chunks_mut(job / affine.group * size))
            .for_each(|((bytes, words), scales)| {
                pack_groups(method, source, affine, bytes, words, scales);
            });
    }

    fn finish(self: Box<Self>) -> Vec<u32> {
        self.order.finish();
        self.scales
    }
}
