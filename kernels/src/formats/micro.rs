//! Micro formats: each weight is a small float, times the 8-bit scale of its group. Rows are whole groups.
//!
//! | format | codes | group | weight |
//! |---|---|---|---|
//! | `mxfp4` | E2M1 | 32 | `e2m1(code) * 2^(scale - 127)` |
//! | `mxfp8` | E4M3 | 32 | `e4m3(code) * 2^(scale - 127)` |
//! | `nvfp4` | E2M1 | 16 | `e2m1(code) * e4m3(scale)` |
//! | `nvfp4:global` | E2M1 | 16 | `e2m1(code) * (e4m3(scale) * global)`, both products rounded to `f32` |
//!
//! The first two are those of the OCP Microscaling Formats specification, version 1.0; the third is NVIDIA's.
//! E2M1 has two exponent bits, one mantissa bit, no infinity and no NaN. A scale of `mx*`, "E8M0", is an
//! exponent alone: byte 0 is 2^-127, which an `f32` holds as a subnormal, and byte 255 is NaN, where MLX reads
//! infinity. Scales of `nvfp4` are E4M3, as are the codes of `mxfp8`.
//!
//! [`packer()`] chooses codes as MLX 0.32.4 chooses them on the CPU. Steps round to `T`, the type
//! of the source, but those with `encode` to `f32`:
//!
//! ```text
//! mx*     scale = amax / largest,  rounded up to 2^e, stored as e + 127;      code of weight / 2^e
//! nvfp4   scale = e4m3(amax / 6 * encode);                            code of weight / scale * encode
//!         without a global scale encode = 1; with one encode = 2688 / whole, global = whole / 2688, where
//!         whole is the largest magnitude of the weight
//! ```
//!
//! E2M1 codes are the nearest ones, a tie to the smaller magnitude and 0 always positive; E4M3 codes are those of
//! [`fp8`]. MLX's Metal kernel takes even codes in a tie, and MLX up to 0.32.2 the nearest power of
//! two for the scale, which clips.
//!
//! # Values after dequantizing
//!
//! | the group holds | `mx*` dequantizes to | `nvfp4` dequantizes to |
//! |---|---|---|
//! | a NaN or an infinity | NaN everywhere | 0 for those; the scale is 448, under which weights up to 112 are 0 as well. With a global scale: NaN in the whole weight |
//! | zeros only | 0; in `mxfp8` with their signs | `+0` |
//! | at most `m`, tiny | steps of 2^-128 (`mxfp4`) and of 2^-136 (`mxfp8`); 0 where `m / largest` is 0 in `T` | 0 for `m / 6 * encode` up to 2^-10 |
//! | at most `m`, above 2784 | as any | 2688 for the largest, less above 2^31, where differences in `f32` are no longer exact, and 0 from 2^36 on. With a global scale: as any |
//! | at most `m`, above 2.9e38 | infinities from `3.5 * 2^126` (`mxfp4`) and `248 * 2^120` (`mxfp8`) on | |
//!
//! The first line of `mx*` and steps under 2^-127 are ours: MLX converts an infinite logarithm to an integer there,
//! and stores exponents modulo 256. A global scale of 0, of a weight of zeros, is ours as well.
//!
//! Letters: `o` rows, `i` columns.

#[cfg(feature = "cube")]
pub(crate) mod cube;
mod host;

pub use host::packer;

use crate::arith::lanes::Lanes;
use crate::arith::number::Narrow;
use crate::arith::pack;
use crate::format::{Fp8Kind, Micro, PackedRows};
use crate::formats::fp8;

/// Values of the sixteen codes of E2M1.
pub const E2M1: [f32; 16] = [
    0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0,
];

/// The largest value of E2M1 under the largest scale: a global scale maps the largest magnitude to it.
pub const SPAN: f32 = 448.0 * 6.0;

impl Micro {
    /// The scale of the group `k` of the weight, out of its scales words; one `f32` rounding with a global scale.
    ///
    /// # Panics
    ///
    /// When `scales` ends before it.
    #[inline]
    pub fn scale(self, scales: &[u32], k: usize) -> f32 {
        let byte = pack::code8(scales, k) as u8;
        match self {
            Self::Mxfp4 | Self::Mxfp8 => power(byte),
            Self::Nvfp4 { global } => {
                let scale = Fp8Kind::E4m3.values()[usize::from(byte)];
                if global {
                    scale * f32::from_bits(scales[scales.len() - 1])
                } else {
                    scale
                }
            }
        }
    }

    /// The scales of the groups from `first` on.
    #[inline(always)]
    pub(crate) fn scales_from(self, scales: &[u32], first: usize, out: &mut [f32]) {
        match self {
            Self::Mxfp4 | Self::Mxfp8 => pack::unpack8(scales, first, out, power),
            Self::Nvfp4 { global: false } => pack::unpack8(scales, first, out, fp8::e4m3_value),
            Self::Nvfp4 { global: true } => {
                let global = f32::from_bits(scales[scales.len() - 1]);
                pack::unpack8(scales, first, out, |byte| fp8::e4m3_value(byte) * global);
            }
        }
    }

    /// The scales words of a weight whose groups have these scales, one byte each as they come in a checkpoint.
    ///
    /// Scales are multiplied by `global`. MLX stores the largest magnitude instead, which is [`SPAN`] times
    /// that; ModelOpt's `weight_scale_2` is it, and compressed-tensors' `weight_global_scale` is its inverse.
    ///
    /// # Panics
    ///
    /// When the format has a global scale and `global` is none, or the other way round.
    pub fn join(self, scales: &[u8], global: Option<f32>) -> Vec<u32> {
        assert_eq!(global.is_some(), self.is_global(), "global scale of {self}");
        let mut words = pack::from_bytes(scales);
        words.extend(global.map(f32::to_bits));
        words
    }
}

/// The value of an E8M0 byte.
#[inline(always)]
const fn power(byte: u8) -> f32 {
    f32::from_bits(match byte {
        0 => 1 << 22,
        255 => f32::NAN.to_bits(),
        exponent => (exponent as u32) << 23,
    })
}

/// Dequantizes groups until `out` is full.
#[inline(always)]
pub(crate) fn unpack<L: Lanes, T: Narrow>(
    lanes: L,
    micro: Micro,
    part: PackedRows<'_>,
    out: &mut [T],
) {
    let (cols, group) = (part.shape[1], micro.group());
    if let Err(error) = micro.check_columns(cols) {
        panic!("{error}");
    }
    let first = part.first_row * cols / group;
    for (k, values) in (first..).zip(out.chunks_exact_mut(group)) {
        let scale = micro.scale(part.scales, k);
        match micro {
            Micro::Mxfp4 | Micro::Nvfp4 { .. } => {
                let table = lanes.mul(lanes.load(&E2M1), lanes.splat(scale));
                pack::look_up4(lanes, part.words, k * group, table, values);
            }
            Micro::Mxfp8 => pack::unpack8(part.words, k * group, values, |code| {
                fp8::e4m3_value(code) * scale
            }),
        }
    }
}
