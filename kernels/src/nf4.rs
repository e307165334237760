//! NF4: each weight is one of sixteen fixed levels, times the largest magnitude of its block.
//!
//! The levels are quantiles of a normal distribution, scaled to `[-1, 1]`, with an exact zero
//! (Dettmers et al., "QLoRA", arXiv:2305.14314, appendix E). Levels and bounds are bitsandbytes' to the
//! bit, not recomputed: a checkpoint packed there has to unpack here.
//!
//! How blocks scale, how ties fall, and what NaN, infinities, tiny and huge weights give back is in
//! [`blocks`].

use crate::blocks::{self, Levels};
use crate::error::FormatError;
use crate::float::{DType, floats};
use crate::format::{Blocks, Format};
use crate::packer::Packer;

/// Values of the codes, ascending from -1 to 1.
#[rustfmt::skip]
pub const LEVELS: [f32; 16] = floats([
    0xbf80_0000, 0xbf32_39b1, 0xbf06_6b30, 0xbeca_32a0, 0xbe91_a24d, 0xbe3d_353f, 0xbdba_7871, 0x0000_0000,
    0x3da2_faff, 0x3e24_cae3, 0x3e7c_04dd, 0x3ead_033a, 0x3ee1_a4b8, 0x3f10_07ab, 0x3f39_13b3, 0x3f80_0000,
]);

/// Codes in ascending order of their values.
const ASCENDING: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// Bound `k` lies between the codes `k` and `k + 1`: `(LEVELS[k] + LEVELS[k + 1]) / 2` in f32.
#[rustfmt::skip]
pub const BOUNDS: [f32; 15] = floats([
    0xbf59_1cd8, 0xbf1c_5270, 0xbeeb_8480, 0xbead_ea76, 0xbe70_3cec, 0xbe0d_38bc, 0xbd3a_7871,
    0x3d22_faff, 0x3df6_4862, 0x3e50_67e0, 0x3e95_82d4, 0x3ec7_53f9, 0x3f00_6d04, 0x3f24_8daf, 0x3f5c_89da,
]);

/// The code of 0.
pub const ZERO: u8 = 7;

/// The code of a weight that is already divided by its block's scale: what a method that scales blocks
/// in a way of its own has left to ask.
pub fn code(scaled: f32) -> u8 {
    blocks::code::<Nf4>(scaled)
}

pub(crate) struct Nf4;

impl Levels for Nf4 {
    const NAME: &'static str = "nf4";
    const LEVELS: [f32; 16] = LEVELS;
    const ASCENDING: [u8; 16] = ASCENDING;
    const BOUNDS: [f32; 15] = BOUNDS;

    fn format(blocks: Blocks) -> Format {
        Format::Nf4(blocks)
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
    blocks::packer::<Nf4>(shape, source, block, nested)
}
