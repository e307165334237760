//! FP8: each weight is an 8-bit float, times the scale of its tile.
//!
//! ```text
//! weight[r, c] = value(code[r, c]) * scale[r / rows, c / cols]
//! ```
//!
//! The two floats are those of Micikevicius et al., "FP8 Formats for Deep Learning", arXiv:2209.05433.
//!
//! # Values after dequantizing
//!
//! Casts follow PyTorch 2.12 and later: NaN becomes NaN and keeps its sign. E4M3, which has no infinity,
//! saturates to 448; E5M2 overflows to infinity. The packer clamps before it casts, so that no finite
//! weight gets the code of an infinity in either. A tile that holds something else than finite weights:
//!
//! | recipe | a NaN in the tile | an infinity in the tile |
//! |---|---|---|
//! | [`CompressedTensors`](Recipe::CompressedTensors) | scale and codes are NaN: the whole tile becomes NaN | the scale is infinite, codes are 0 or NaN: the whole tile becomes NaN |
//! | [`FineGrained`](Recipe::FineGrained) | that value becomes NaN; the scale is 1, so that others saturate and small ones are lost | as above |
//! | [`Fixed`](Recipe::Fixed) | that value becomes NaN | that value saturates |
//!
//! Huge and tiny weights:
//! * `CompressedTensors` rounds the scale to the source's type, also upwards: 65504 in f16 becomes
//!   65520, which is an infinity once it is rounded to f16, and the largest bf16 one in bf16. A scale that
//!   is subnormal there is coarse; one that rounds to 0 (in f16 and E4M3, under an `amax` of 1.3e-5) is
//!   replaced by the type's epsilon, under which most of the tile becomes 0.
//! * `FineGrained` turns `f32::MAX`, whose scale times `largest` is 2^128, into an infinity, and with
//!   `ue8m0` the values next to the largest one of any type. Tiles under an `amax` of `largest /
//!   f32::MAX` (1.3e-36 in E4M3, 1.7e-34 in E5M2) become zeros.
//! * `Fixed` saturates above `largest * scale` and becomes 0 up to half a smallest step (`2^-10 *
//!   scale` in E4M3, `2^-17 * scale` in E5M2).
//!
//! A zero keeps the sign of its weight.
//!
//! Letters: `o` rows, `i` columns, `n = o * i`.

#[cfg(feature = "cube")]
pub(crate) mod cube;
mod host;
#[cfg(feature = "cube")]
pub(crate) mod pack_cube;

pub use host::packer;

use crate::arith::float::{DType, epsilon};
use crate::arith::number::Narrow;
use crate::arith::pack;
use crate::format::FormatError;
use crate::format::{Fp8Kind, PackedRows, Tile};

/// `f32` to E4M3, nearest even. Magnitudes of 464 and more, and infinity, become 448.
#[inline(always)]
fn e4m3(value: f32) -> u8 {
    cast::<3, 7>(value, 0x7e, 0x7f)
}

/// `f32` to E5M2, nearest even. Magnitudes of 61440 and more become infinity.
#[inline(always)]
fn e5m2(value: f32) -> u8 {
    cast::<2, 15>(value, 0x7c, 0x7f)
}

/// Rounds to `MANTISSA` bits under an exponent biased by `BIAS`; no magnitude is coded above `most`.
///
/// No branch, so that a loop of casts becomes vector code.
#[inline(always)]
fn cast<const MANTISSA: u32, const BIAS: u32>(value: f32, most: u32, nan: u32) -> u8 {
    let bits = value.to_bits();
    let (sign, magnitude) = (bits >> 24 & 0x80, bits & 0x7fff_ffff);

    // Normal: adding half a step carries into the bits that stay, ties to even; then the bias changes.
    let cut = 23 - MANTISSA;
    let odd = magnitude >> cut & 1;
    let carried = magnitude.wrapping_add((1 << (cut - 1)) - 1 + odd) >> cut;
    let normal = carried.wrapping_sub((127 - BIAS) << MANTISSA);

    // Below the smallest normal: adding 2^23 of the smallest steps lets the f32 adder round. What it
    // may carry into is the smallest normal, whose code comes next.
    let shift = f32::from_bits((127 + 23 + 1 - BIAS - MANTISSA) << 23);
    let subnormal = (f32::from_bits(magnitude) + shift)
        .to_bits()
        .wrapping_sub(shift.to_bits());

    let smallest_normal = (127 + 1 - BIAS) << 23;
    let code = if magnitude < smallest_normal {
        subnormal
    } else {
        normal.min(most)
    };
    let code = if magnitude > 0x7f80_0000 { nan } else { code };
    (sign | code) as u8
}

/// Values of the 256 codes of E4M3.
static E4M3: [f32; 256] = values(Fp8Kind::E4m3);

/// Values of the 256 codes of E5M2.
static E5M2: [f32; 256] = values(Fp8Kind::E5m2);

const fn values(kind: Fp8Kind) -> [f32; 256] {
    let mut values = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        values[code] = value(kind, code as u32);
        code += 1;
    }
    values
}

const fn value(kind: Fp8Kind, code: u32) -> f32 {
    let (mantissa_bits, bias) = match kind {
        Fp8Kind::E4m3 => (3, 7),
        Fp8Kind::E5m2 => (2, 15),
    };
    let (sign, exponent) = ((code & 0x80) << 24, (code & 0x7f) >> mantissa_bits);
    let mantissa = code & ((1 << mantissa_bits) - 1);
    let step = f32::from_bits((127 + 1 - bias - mantissa_bits) << 23);
    let magnitude = match (kind, exponent, mantissa) {
        (Fp8Kind::E4m3, 15, 7) | (Fp8Kind::E5m2, 31, 1..) => f32::NAN.to_bits(),
        (Fp8Kind::E5m2, 31, 0) => f32::INFINITY.to_bits(),
        (_, 0, _) => (mantissa as f32 * step).to_bits(),
        _ => (exponent + 127 - bias) << 23 | mantissa << (23 - mantissa_bits),
    };
    f32::from_bits(sign | magnitude)
}

impl Fp8Kind {
    /// The code of a weight that is already divided by its scale, nearest even: for a method that scales
    /// in a way of its own. In E4M3 magnitudes of 464 and more, and infinity, become 448; in E5M2 those of
    /// 61440 and more become infinity, so that it wants a clamp to [`largest`](Self::largest) first.
    #[inline(always)]
    pub fn encode(self, value: f32) -> u8 {
        match self {
            Self::E4m3 => e4m3(value),
            Self::E5m2 => e5m2(value),
        }
    }

    /// Values of all codes.
    pub fn values(self) -> &'static [f32; 256] {
        match self {
            Self::E4m3 => &E4M3,
            Self::E5m2 => &E5M2,
        }
    }
}

/// Dequantizes rows until `out` is full.
#[inline(always)]
pub(crate) fn unpack<T: Narrow>(kind: Fp8Kind, tile: Tile, part: PackedRows<'_>, out: &mut [T]) {
    match kind {
        Fp8Kind::E4m3 => unpack_with(tile, part, out, e4m3_value),
        Fp8Kind::E5m2 => unpack_with(tile, part, out, e5m2_value),
    }
}

#[inline(always)]
fn unpack_with<T: Narrow>(
    tile: Tile,
    part: PackedRows<'_>,
    out: &mut [T],
    value: impl Fn(u8) -> f32,
) {
    let i = part.shape[1];
    let ([rows, cols], [_, grid_cols]) = (tile.sides(part.shape), tile.grid(part.shape));
    for (r, values) in (part.first_row..).zip(out.chunks_mut(i.max(1))) {
        let scales = &part.scales[r / rows * grid_cols..];
        for (t, values) in values.chunks_mut(cols).enumerate() {
            let (first, scale) = (r * i + t * cols, f32::from_bits(scales[t]));
            pack::unpack8(part.words, first, values, |code| value(code) * scale);
        }
    }
}

/// The value of a code of E4M3, without a table, so that a loop becomes vector code.
#[inline(always)]
pub(crate) fn e4m3_value(code: u8) -> f32 {
    wide::<3, 7>(code, 0x7f, 0x7f)
}

/// The value of a code of E5M2.
#[inline(always)]
pub(crate) fn e5m2_value(code: u8) -> f32 {
    wide::<2, 15>(code, 0x7c, 0x7d)
}

/// Magnitudes from `infinite` on are infinite, from `nan` on NaN.
#[inline(always)]
fn wide<const MANTISSA: u32, const BIAS: u32>(code: u8, infinite: u32, nan: u32) -> f32 {
    let (sign, magnitude) = (u32::from(code & 0x80) << 24, u32::from(code & 0x7f));
    let normal = (magnitude << (23 - MANTISSA)) + ((127 - BIAS) << 23);
    // Below the smallest normal, codes count the smallest steps. Through i32, because SSE2 converts nothing else.
    let step = f32::from_bits((127 + 1 - BIAS - MANTISSA) << 23);
    let subnormal = (magnitude as i32 as f32 * step).to_bits();
    let bits = if magnitude < 1 << MANTISSA {
        subnormal
    } else {
        normal
    };
    let bits = if magnitude >= infinite {
        f32::INFINITY.to_bits()
    } else {
        bits
    };
    let bits = if magnitude >= nan {
        f32::NAN.to_bits()
    } else {
        bits
    };
    f32::from_bits(sign | bits)
}

/// How a scale follows from a tile, and a code from a weight and its scale.
///
/// `largest` is the largest value of the [`Fp8Kind`], `amax` the largest magnitude of the tile, and
/// codes are `cast(clamp(.., -largest, largest))`.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum Recipe {
    /// compressed-tensors 0.20 and llm-compressor 0.14, every step rounded to the source's type:
    /// `scale = amax / largest`, or the type's epsilon where that is 0; code of `weight / scale`.
    CompressedTensors,

    /// DeepSeek's layout, as transformers 5.23 writes it, in `f32`: `factor = 1 / amax * largest`,
    /// `scale = 1 / factor`, code of `weight * factor`.
    ///
    /// Where the factor overflows (an `amax` below `largest / f32::MAX`, and 0) it is 1. transformers does so
    /// for 0 only, and turns the zeros of such a tile into NaN.
    FineGrained {
        /// Scales are powers of two, rounded up.
        ue8m0: bool,
    },

    /// A scale known beforehand, in `f32`: code of `weight / scale`.
    Fixed(f32),
}

/// The factors of one tile.
#[derive(Debug, Clone, Copy)]
struct TileScaling {
    /// Stored, and multiplied by when unpacking.
    scale: f32,
    /// The recipe divides a weight by it; `FineGrained` multiplies.
    by: f32,
}

impl Recipe {
    /// Checks the values of the fields.
    ///
    /// # Errors
    ///
    /// [`FormatError::Scale`] for a fixed scale that is not positive and finite.
    pub fn validate(self) -> Result<(), FormatError> {
        match self {
            Self::Fixed(found) if !(found > 0.0 && found.is_finite()) => {
                Err(FormatError::Scale { found })
            }
            _ => Ok(()),
        }
    }

    /// The source is read once for the scale and once for the codes, if the scale needs all of it.
    pub(crate) const fn passes(self, tile: Tile) -> usize {
        match (self, tile) {
            (Self::Fixed(_), _) | (_, Tile::Row | Tile::Block { .. }) => 1,
            (_, Tile::Tensor) => 2,
        }
    }

    fn scaling(self, source: DType, kind: Fp8Kind, amax: f32) -> TileScaling {
        match self {
            Self::CompressedTensors => {
                let scale = source.round(amax / kind.largest());
                let scale = if scale == 0.0 { epsilon(source) } else { scale };
                TileScaling { scale, by: scale }
            }
            Self::FineGrained { ue8m0 } => {
                // PyTorch computes `448 / amax` as `(1 / amax) * 448`.
                let factor = 1.0 / amax * kind.largest();
                // NaN compares false, so that it takes scale 1 as well.
                let factor = if amax > 0.0 && factor < f32::INFINITY {
                    factor
                } else {
                    1.0
                };
                let scale = 1.0 / factor;
                if !ue8m0 || scale == f32::INFINITY {
                    return TileScaling { scale, by: factor };
                }
                // The logarithm is rounded to f32 before it is rounded up, as there: a scale just above
                // a power of two stays at that power.
                let exponent = f64::from(scale.max(f32::MIN_POSITIVE)).log2() as f32;
                let scale = exponent.ceil().exp2();
                TileScaling {
                    scale,
                    by: 1.0 / scale,
                }
            }
            Self::Fixed(scale) => TileScaling { scale, by: scale },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_the_tables() {
        for code in 0..=255u8 {
            let found = [e4m3_value(code), e5m2_value(code)].map(f32::to_bits);
            let expected = [&E4M3, &E5M2].map(|values| values[usize::from(code)].to_bits());
            assert_eq!(found, expected, "{code:#x}");
        }
    }
}
