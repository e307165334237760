//! Source weights: how a checkpoint stores a float, widened to `f32` exactly.
//!
//! Written without branches, so that loops over them become vector code: `half` asks the processor for
//! its instructions once a value, which took most of the time of packing.

use core::{fmt, str::FromStr};

use rayon::prelude::*;

use super::halves::{narrow_f16, round_bf16, round_f16, widen_f16};
use super::lanes::for_processors;

#[cfg(feature = "cube")]
pub(crate) mod cube;
#[cfg(feature = "cube")]
pub(crate) mod pack_cube;

/// The type of dense values: of a source tensor, of dense weights, of activations. Stored little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "lowercase")
)]
pub enum DType {
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// The upper half of an IEEE single.
    Bf16,
}

impl DType {
    /// All of them, in the order in which they are listed to people.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::Bf16];

    /// `"f32"`, `"f16"`, `"bf16"`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }

    /// Bytes of one value.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// The largest magnitude of the weights in `bytes`; NaN when there is one, 0 when there is none.
    pub fn absmax(self, bytes: &[u8]) -> f32 {
        absmax_stored(self, bytes)
    }

    /// Widens `bytes`, which is `[n * size]`, into `out`, which is `[n]`. Exact.
    ///
    /// # Panics
    ///
    /// When the lengths disagree.
    pub fn widen(self, bytes: &[u8], out: &mut [f32]) {
        widen(self, bytes, out);
    }

    /// Rounds `values`, which is `[n]`, to nearest even and stores them in `bytes`, which is `[n * size]`.
    pub fn narrow(self, values: &[f32], bytes: &mut [u8]) {
        match self {
            Self::F32 => {
                for (value, bytes) in values.iter().zip(bytes.as_chunks_mut().0) {
                    *bytes = value.to_le_bytes();
                }
            }
            Self::F16 | Self::Bf16 => {
                for (value, bytes) in values.iter().zip(bytes.as_chunks_mut().0) {
                    *bytes = (self.to_bits(*value) as u16).to_le_bytes();
                }
            }
        }
    }

    /// [`widen`](Self::widen) as a part of vector code.
    #[inline(always)]
    pub(crate) fn widen_here(self, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(
            bytes.len(),
            out.len() * self.size(),
            "bytes for {} weights",
            out.len()
        );
        match self {
            Self::F32 => {
                for (value, b) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *value = f32::from_le_bytes(*b);
                }
            }
            Self::F16 => {
                for (value, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *value = widen_f16(u16::from_le_bytes(*b));
                }
            }
            Self::Bf16 => {
                for (value, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *value = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
                }
            }
        }
    }

    /// Rounds to this type, nearest even, and widens back: `R_T(x)`.
    #[inline(always)]
    pub fn round(self, value: f32) -> f32 {
        match self {
            Self::F32 => value,
            Self::F16 => round_f16(value),
            Self::Bf16 => round_bf16(value),
        }
    }

    /// The bits of the nearest value of this type, ties to even; of a 16-bit type in the low half.
    #[inline(always)]
    pub fn to_bits(self, value: f32) -> u32 {
        match self {
            Self::F32 => value.to_bits(),
            Self::F16 => narrow_f16(value).into(),
            Self::Bf16 => round_bf16(value).to_bits() >> 16,
        }
    }

    /// The value that has these bits; of a 16-bit type those in the low half. Exact.
    #[inline(always)]
    pub fn from_bits(self, bits: u32) -> f32 {
        match self {
            Self::F32 => f32::from_bits(bits),
            Self::F16 => widen_f16(bits as u16),
            Self::Bf16 => f32::from_bits(bits << 16),
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no [`DType`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown dtype `{0}`; write f32, f16 or bf16")]
pub struct UnknownDType(String);

impl FromStr for DType {
    type Err = UnknownDType;

    fn from_str(name: &str) -> Result<Self, UnknownDType> {
        let named = Self::ALL.into_iter().find(|dtype| dtype.name() == name);
        named.ok_or_else(|| UnknownDType(name.to_owned()))
    }
}

/// The step above 1 of a float type.
pub(crate) const fn epsilon(source: DType) -> f32 {
    match source {
        DType::F32 => f32::EPSILON,
        DType::F16 => 1.0 / 1024.0,
        DType::Bf16 => 1.0 / 128.0,
    }
}

/// The largest magnitude; NaN when there is one. 0 for no value.
#[inline(always)]
pub(crate) fn absmax(values: &[f32]) -> f32 {
    absmax_of(values.iter().copied())
}

/// [`absmax`] of values that are made on the way.
#[inline(always)]
pub(crate) fn absmax_of(values: impl Iterator<Item = f32>) -> f32 {
    // Magnitudes order as their bits do, and NaN comes last: that is PyTorch's `abs().max()`, which
    // keeps NaN, where `f32::max` drops it. Signed, because SSE2 compares nothing else.
    let bits = values.fold(0, |largest, value| {
        largest.max(value.abs().to_bits() as i32)
    });
    f32::from_bits(bits as u32)
}

for_processors! {
    fn widen(source: DType, bytes: &[u8], out: &mut [f32]) {
        source.widen_here(bytes, out);
    }
}

for_processors! {
    /// [`absmax`] of weights as they are stored.
    pub(crate) fn absmax_stored(source: DType, bytes: &[u8]) -> f32 {
        absmax_here(source, bytes)
    }
}

/// [`absmax_stored`] as a part of vector code.
#[inline(always)]
pub(crate) fn absmax_here(source: DType, bytes: &[u8]) -> f32 {
    // Magnitudes order as their bits do in every type, see `absmax_of`.
    if source == DType::F32 {
        let values = bytes.as_chunks().0.iter();
        return absmax_of(values.map(|bytes| f32::from_le_bytes(*bytes)));
    }
    let bits = bytes.as_chunks().0.iter().fold(0, |largest: i16, bytes| {
        largest.max(i16::from_le_bytes(*bytes) & i16::MAX)
    });
    source.from_bits(bits as u32)
}

/// Smallest and largest of bits, as whole numbers that are in the order of the floats: NaN before all or after all. The
/// compiler knows how to reduce lanes of whole numbers, which for floats it does one by one.
macro_rules! ends {
    ($int:ty, $bits:expr) => {{
        let (mut min, mut max) = (<$int>::MAX, <$int>::MIN);
        // Its own inverse.
        let turned = |bits: $int| bits ^ (bits >> (<$int>::BITS - 1) & <$int>::MAX);
        for bits in $bits {
            min = min.min(turned(bits));
            max = max.max(turned(bits));
        }
        (turned(min), turned(max))
    }};
}

/// Smallest and largest of the weights that are numbers, infinities the wrong way round if none is; and whether one is
/// none.
#[inline(always)]
pub(crate) fn range_of_numbers(source: DType, bytes: &[u8]) -> (f32, f32, bool) {
    let (min, max) = if source == DType::F32 {
        let bits = bytes.as_chunks().0.iter();
        let (min, max) = ends!(i32, bits.map(|bytes| i32::from_le_bytes(*bytes)));
        (min as u32, max as u32)
    } else {
        let bits = bytes.as_chunks().0.iter();
        let (min, max) = ends!(i16, bits.map(|bytes| i16::from_le_bytes(*bytes)));
        (min as u32 & 0xffff, max as u32 & 0xffff)
    };
    let (min, max) = (source.from_bits(min), source.from_bits(max));
    // Of no weight both ends are NaN.
    if min.is_nan() || max.is_nan() {
        let (min, max) = range_beside_nan(source, bytes);
        return (min, max, !bytes.is_empty());
    }
    (min, max, false)
}

#[cold]
fn range_beside_nan(source: DType, bytes: &[u8]) -> (f32, f32) {
    let mut ends = (f32::INFINITY, f32::NEG_INFINITY);
    for bytes in bytes.chunks(source.size()) {
        let mut value = [0.0];
        source.widen_here(bytes, &mut value);
        ends = (ends.0.min(value[0]), ends.1.max(value[0]));
    }
    ends
}

/// Smallest and largest; NaN when there is one. Infinities the wrong way round for no weight.
#[inline(always)]
pub(crate) fn range(source: DType, bytes: &[u8]) -> (f32, f32) {
    let (min, max, nan) = range_of_numbers(source, bytes);
    if nan {
        (f32::NAN, f32::NAN)
    } else {
        (min, max)
    }
}

/// The [`range`] of two parts, of theirs.
pub(crate) fn join_ranges(a: (f32, f32), b: (f32, f32)) -> (f32, f32) {
    // Ends that are NaN stay so.
    let min = if a.0 <= b.0 || a.0.is_nan() { a.0 } else { b.0 };
    let max = if a.1 >= b.1 || a.1.is_nan() { a.1 } else { b.1 };
    (min, max)
}

/// [`range`] of weights as they are stored, by all workers.
pub(crate) fn range_stored(source: DType, bytes: &[u8]) -> (f32, f32) {
    const JOB: usize = 1 << 15;
    let jobs = bytes.par_chunks(JOB * source.size());
    jobs.map(|bytes| range_job(source, bytes))
        .reduce(|| (f32::INFINITY, f32::NEG_INFINITY), join_ranges)
}

for_processors! {
    fn range_job(source: DType, bytes: &[u8]) -> (f32, f32) {
        range(source, bytes)
    }
}

/// A table of bit patterns as floats.
pub(crate) const fn floats<const N: usize>(bits: [u32; N]) -> [f32; N] {
    let mut values = [0.0; N];
    let mut k = 0;
    while k < N {
        values[k] = f32::from_bits(bits[k]);
        k += 1;
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    #[track_caller]
    fn assert_same(found: f32, expected: f32, of: u32) {
        let same = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
        assert!(same, "{of:#x}: {found:e} against {expected:e}");
    }

    #[test]
    fn every_half_widens_as_in_half_and_narrows_back() {
        for bits in 0..=u16::MAX {
            let mut out = [0.0];
            DType::F16.widen(&bits.to_le_bytes(), &mut out);
            assert_same(out[0], f16::from_bits(bits).to_f32(), bits.into());
            assert_eq!(
                DType::F16.to_bits(out[0]),
                u32::from(f16::from_f32(out[0]).to_bits())
            );
            DType::Bf16.widen(&bits.to_le_bytes(), &mut out);
            assert_same(out[0], bf16::from_bits(bits).to_f32(), bits.into());
            assert_eq!(
                DType::Bf16.to_bits(out[0]),
                u32::from(bf16::from_f32(out[0]).to_bits())
            );
        }
    }

    /// Every f16 and bf16, each middle between two, and the f32 next to those: a tie to the wrong side,
    /// a lost subnormal and a wrong overflow fail here.
    #[test]
    fn floats_round_as_in_half() {
        for upper in 0..=u16::MAX {
            for lower in [
                0, 1, 0x0fff, 0x1000, 0x1001, 0x3000, 0x7fff, 0x8000, 0x8001, 0xffff,
            ] {
                let bits = u32::from(upper) << 16 | lower;
                let value = f32::from_bits(bits);
                assert_same(DType::F16.round(value), f16::from_f32(value).to_f32(), bits);
                assert_same(
                    DType::Bf16.round(value),
                    bf16::from_f32(value).to_f32(),
                    bits,
                );
                // Which NaN it is, too.
                let halves = [DType::F16, DType::Bf16].map(|to| to.to_bits(value));
                let expected = [
                    f16::from_f32(value).to_bits(),
                    bf16::from_f32(value).to_bits(),
                ];
                assert_eq!(halves, expected.map(u32::from), "{bits:#x}");
                for source in [DType::F32, DType::F16, DType::Bf16] {
                    let there_and_back = source.from_bits(source.to_bits(value));
                    assert_same(there_and_back, source.round(value), bits);
                }
            }
        }
        for bits in 0..0x7c00 {
            // Subnormal f16 lie apart by more than one f32 pattern: their middles are made.
            let [low, high] = [bits, bits + 1].map(|bits| f16::from_bits(bits).to_f32());
            let middle = if high.is_finite() {
                (low + high) / 2.0
            } else {
                65520.0
            };
            for value in [middle.next_down(), middle, middle.next_up()] {
                for value in [value, -value] {
                    let expected = f16::from_f32(value);
                    assert_same(DType::F16.round(value), expected.to_f32(), value.to_bits());
                    let found = DType::F16.to_bits(value);
                    assert_eq!(found, u32::from(expected.to_bits()), "{value:e}");
                }
            }
        }
    }
}
