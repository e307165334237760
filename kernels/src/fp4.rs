//! FP4: each weight is a 4-bit float, times the largest magnitude of its block.
//!
//! bitsandbytes' own 4-bit float: a sign bit, and eight magnitudes `{0, 1/16, 8, 12, 4, 6, 2, 3} / 12`,
//! which are neither in order nor those of the OCP "E2M1". Code 8 is the zero with a sign; it gives back
//! +0, as in bitsandbytes' table (its scalar C++ and its CUDA kernels give -0).
//!
//! How blocks scale, how ties fall, and what NaN, infinities, tiny and huge weights give back is in
//! [`blocks`]. The codes are chosen as the CPU code of bitsandbytes 0.50 does, where the zero of small *positive* weights is code 8.

use crate::blocks::{self, Levels};
use crate::error::FormatError;
use crate::float::{DType, floats};
use crate::format::{Blocks, Format};
use crate::packer::Packer;

/// Values of the codes; the sign is bit 3.
#[rustfmt::skip]
pub const LEVELS: [f32; 16] = floats([
    0x0000_0000, 0x3baa_aaab, 0x3f2a_aaab, 0x3f80_0000, 0x3eaa_aaab, 0x3f00_0000, 0x3e2a_aaab, 0x3e80_0000,
    0x0000_0000, 0xbbaa_aaab, 0xbf2a_aaab, 0xbf80_0000, 0xbeaa_aaab, 0xbf00_0000, 0xbe2a_aaab, 0xbe80_0000,
]);

/// Codes in ascending order of their values.
pub const ASCENDING: [u8; 16] = [11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3];

/// Bound `k` lies between the codes `ASCENDING[k]` and `ASCENDING[k + 1]`: their midpoint in f32.
#[rustfmt::skip]
pub const BOUNDS: [f32; 15] = floats([
    0xbf55_5556, 0xbf15_5556, 0xbed5_5556, 0xbe95_5556, 0xbe55_5556, 0xbdb0_0000, 0xbb2a_aaab, 0x0000_0000,
    0x3b2a_aaab, 0x3db0_0000, 0x3e55_5556, 0x3e95_5556, 0x3ed5_5556, 0x3f15_5556, 0x3f55_5556,
]);

/// The code of 0.
pub const ZERO: u8 = 0;

/// The code of a weight that is already divided by its block's scale: what a method that scales blocks
/// in a way of its own has left to ask.
pub fn code(scaled: f32) -> u8 {
    blocks::code::<Fp4>(scaled)
}

pub(crate) struct Fp4;

impl Levels for Fp4 {
    const NAME: &'static str = "fp4";
    const LEVELS: [f32; 16] = LEVELS;
    const ASCENDING: [u8; 16] = ASCENDING;
    const BOUNDS: [f32; 15] = BOUNDS;

    fn format(blocks: Blocks) -> Format {
        Format::Fp4(blocks)
    }
}

/// Packs a weight of `shape` `[o, i]`. `nested` keeps the scales as 8-bit codes.
///
/// # Errors
///
/// [`FormatError::Block`] unless `block` is a power of two from 32 to 4096; [`FormatError::Size`].
pub fn packer(
    shape: [usize; 2],
    source: DType,
    block: usize,
    nested: bool,
) -> Result<Box<dyn Packer>, FormatError> {
    blocks::packer::<Fp4>(shape, source, block, nested)
}
