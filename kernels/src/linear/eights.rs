//! Products with 8-bit codes, which are dequantized in registers: a weight is read once, where it lies.

use crate::arith::lanes::{self, LANES, Lanes};
use crate::arith::pack::CODES8;
use crate::format::{Affine, Along, Format, Fp8Kind, Micro};
use crate::formats::fp8::{e4m3_value, e5m2_value};
use crate::formats::int8;

use super::fours::Staged;

/// Words of a vector.
const WORDS: usize = LANES / CODES8;

/// A weight of such codes whose rows and groups are whole vectors.
#[derive(Clone, Copy)]
pub(super) struct Eights<'a> {
    format: Format,
    shape: [usize; 2],
    /// `[o, vectors]`.
    words: &'a [[u32; WORDS]],
    scales: &'a [u32],
    /// Vectors of a row.
    vectors: usize,
    /// Vectors under one scale; the last of a row may be fewer.
    group: usize,
}

/// Values of the codes under a scale and an offset.
trait ByteValues: Copy {
    fn values<L: Lanes>(self, lanes: L, codes: &[u8; LANES], scale: f32, offset: f32) -> L::Floats;
}

/// Signed whole numbers of 127ths.
#[derive(Clone, Copy)]
struct SignedBytes;

#[derive(Clone, Copy)]
struct E4m3;

#[derive(Clone, Copy)]
struct E5m2;

impl ByteValues for SignedBytes {
    #[inline(always)]
    fn values<L: Lanes>(self, lanes: L, codes: &[u8; LANES], scale: f32, _: f32) -> L::Floats {
        let codes = lanes::each(
            codes,
            #[inline(always)]
            |code| f32::from(code as i8),
        );
        let scaled = lanes.mul(lanes.load(&codes), lanes.splat(scale));
        lanes.mul(scaled, lanes.splat(int8::STEP))
    }
}

impl ByteValues for E4m3 {
    #[inline(always)]
    fn values<L: Lanes>(self, lanes: L, codes: &[u8; LANES], scale: f32, _: f32) -> L::Floats {
        lanes.mul(
            lanes.load(&lanes::each(codes, e4m3_value)),
            lanes.splat(scale),
        )
    }
}

impl ByteValues for E5m2 {
    #[inline(always)]
    fn values<L: Lanes>(self, lanes: L, codes: &[u8; LANES], scale: f32, _: f32) -> L::Floats {
        lanes.mul(
            lanes.load(&lanes::each(codes, e5m2_value)),
            lanes.splat(scale),
        )
    }
}

impl ByteValues for Affine {
    #[inline(always)]
    fn values<L: Lanes>(self, lanes: L, codes: &[u8; LANES], scale: f32, offset: f32) -> L::Floats {
        self.weights(
            lanes,
            lanes.load(&lanes::each(codes, f32::from)),
            scale,
            offset,
        )
    }
}

impl<'a> Eights<'a> {
    /// The weight, if it is of that kind.
    pub(super) fn new(
        format: Format,
        shape: [usize; 2],
        words: &'a [u32],
        scales: &'a [u32],
    ) -> Option<Self> {
        let [o, i] = shape;
        let group = match format {
            Format::Int8 => i,
            Format::Fp8(_, tile) => tile.sides(shape)[1].min(i),
            Format::Micro(Micro::Mxfp8) => Micro::Mxfp8.group(),
            Format::Affine(affine) if affine.bits == 8 && affine.along == Along::Flat => {
                let rows = affine.group.is_multiple_of(i) || affine.group == o * i;
                let groups = i.is_multiple_of(affine.group);
                if rows {
                    i
                } else {
                    affine.group * usize::from(groups)
                }
            }
            _ => return None,
        };
        let fit = group > 0 && group.is_multiple_of(LANES) && i.is_multiple_of(LANES);
        fit.then_some(Self {
            format,
            shape,
            words: words.as_chunks().0,
            scales,
            vectors: i / LANES,
            group: group / LANES,
        })
    }

    /// Scales and offsets of `rows` rows from `first` on, `[rows, groups]`.
    #[inline(always)]
    fn stage(&self, first: usize, rows: usize, groups: usize, staged: &mut Staged) {
        let Staged { scales, offsets } = staged;
        scales.resize(rows * groups, 0.0);
        offsets.resize(rows * groups, 0.0);
        let at = first * groups;
        match self.format {
            Format::Micro(micro) => micro.scales_from(self.scales, at, scales),
            Format::Affine(affine) if affine.group == self.group * LANES => {
                affine.params_from(self.scales, at, scales, offsets);
            }
            Format::Affine(affine) => {
                for (r, (scale, offset)) in (first..).zip(scales.iter_mut().zip(offsets)) {
                    let k = r * self.shape[1] / affine.group;
                    (*scale, *offset) = affine.params(self.scales, k);
                }
            }
            Format::Fp8(_, tile) => {
                let [side, _] = tile.sides(self.shape);
                for (r, to) in (first..).zip(scales.chunks_exact_mut(groups)) {
                    let from = &self.scales[r / side * groups..][..groups];
                    for (to, bits) in to.iter_mut().zip(from) {
                        *to = f32::from_bits(*bits);
                    }
                }
            }
            _ => {
                for (to, bits) in scales.iter_mut().zip(&self.scales[first..]) {
                    *to = f32::from_bits(*bits);
                }
            }
        }
    }

    /// Rows from `first` on times the inputs `x`, `[m, i]`, into `[m, rows]`.
    #[inline(always)]
    pub(super) fn multiply<L: Lanes>(
        &self,
        lanes: L,
        first: usize,
        x: &[f32],
        staged: &mut Staged,
        y: &mut [f32],
    ) {
        match self.format {
            Format::Fp8(Fp8Kind::E5m2, _) => self.all(lanes, E5m2, first, x, staged, y),
            Format::Fp8(Fp8Kind::E4m3, _) | Format::Micro(_) => {
                self.all(lanes, E4m3, first, x, staged, y);
            }
            Format::Affine(affine) => self.all(lanes, affine, first, x, staged, y),
            _ => self.all(lanes, SignedBytes, first, x, staged, y),
        }
    }

    #[inline(always)]
    fn all<L: Lanes>(
        &self,
        lanes: L,
        values: impl ByteValues,
        first: usize,
        x: &[f32],
        staged: &mut Staged,
        y: &mut [f32],
    ) {
        let x = x.as_chunks::<LANES>().0;
        let all = y.len() * self.vectors / x.len();
        let groups = self.vectors.div_ceil(self.group);
        let mut done = 0;
        while done < all {
            let (first, y) = (first + done, &mut y[done..]);
            let rows = if all - done < L::ROWS { 1 } else { L::ROWS };
            self.stage(first, rows, groups, staged);
            for (k, x) in x.chunks_exact(self.vectors).enumerate() {
                let y = &mut y[k * all..][..rows];
                match rows {
                    4 => self.rows::<L, 4>(lanes, values, first, x, staged, y),
                    2 => self.rows::<L, 2>(lanes, values, first, x, staged, y),
                    _ => self.rows::<L, 1>(lanes, values, first, x, staged, y),
                }
            }
            done += rows;
        }
    }

    /// `R` rows times one input, adding in the order of [`dot`](super::dot).
    #[inline(always)]
    fn rows<L: Lanes, const R: usize>(
        &self,
        lanes: L,
        values: impl ByteValues,
        first: usize,
        x: &[[f32; LANES]],
        staged: &Staged,
        y: &mut [f32],
    ) {
        let vectors = self.vectors;
        let words: [_; R] =
            core::array::from_fn(|r| &self.words[(first + r) * vectors..][..vectors]);
        let groups = staged.scales.len() / R;
        let mut sums = [lanes.splat(0.0); R];
        for (g, x) in x.chunks(self.group).enumerate() {
            let mut params = [[0.0; 2]; R];
            let mut group = [&words[0][..0]; R];
            for r in 0..R {
                params[r] = [
                    staged.scales[r * groups + g],
                    staged.offsets[r * groups + g],
                ];
                group[r] = &words[r][g * self.group..][..x.len()];
            }
            for (c, x) in x.iter().enumerate() {
                let x = lanes.load(x);
                for r in 0..R {
                    // Rows are too short for the processor to notice in time that they are read through: the same
                    // place of the rows after these.
                    lanes.prefetch_far(group[r][c].as_slice(), R * vectors * WORDS);
                    let codes = group[r][c].map(u32::to_le_bytes);
                    let mut bytes = [0; LANES];
                    bytes.copy_from_slice(codes.as_flattened());
                    let [scale, offset] = params[r];
                    let weights = values.values(lanes, &bytes, scale, offset);
                    sums[r] = lanes.mul_add(weights, x, sums[r]);
                }
            }
        }
        for (y, sums) in y.iter_mut().zip(sums) {
            let mut lane = [0.0; LANES];
            lanes.store(sums, &mut lane);
            *y = lanes::sum(lane);
        }
    }
}
