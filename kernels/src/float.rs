//! Source weights: how a checkpoint stores a float, widened to `f32` exactly.

use half::{bf16, f16};

/// How a source weight is stored. Always little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FloatBits {
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// The upper half of an IEEE single.
    Bf16,
}

impl FloatBits {
    /// Bytes of one weight.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// Widens `bytes`, which is `[n * size]`, into `out`, which is `[n]`. Exact.
    ///
    /// # Panics
    ///
    /// When the lengths disagree.
    pub fn widen(self, bytes: &[u8], out: &mut [f32]) {
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
                    *value = f16::from_le_bytes(*b).to_f32();
                }
            }
            Self::Bf16 => {
                for (value, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *value = bf16::from_le_bytes(*b).to_f32();
                }
            }
        }
    }

    /// Rounds to this type, nearest even, and widens back: `R_T(x)`.
    pub fn round(self, value: f32) -> f32 {
        match self {
            Self::F32 => value,
            Self::F16 => f16::from_f32(value).to_f32(),
            Self::Bf16 => bf16::from_f32(value).to_f32(),
        }
    }
}

/// The largest magnitude; NaN when there is one. 0 for no value.
pub(crate) fn absmax(values: &[f32]) -> f32 {
    absmax_of(values.iter().copied())
}

/// [`absmax`] of values that are made on the way.
pub(crate) fn absmax_of(values: impl Iterator<Item = f32>) -> f32 {
    // Magnitudes order as their bits do, and NaN comes last: that is PyTorch's `abs().max()`, which
    // keeps NaN, where `f32::max` drops it. Signed, because SSE2 compares nothing else.
    let bits = values.fold(0, |largest, value| {
        largest.max(value.abs().to_bits() as i32)
    });
    f32::from_bits(bits as u32)
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
