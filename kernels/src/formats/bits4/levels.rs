//! The sixteen values of NF4 and of FP4, and where one begins and the other ends.

use crate::arith::float::floats;
use crate::format::{Blocks, Format};

/// The values of 4-bit codes, relative to the scale of a block.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// Values of the codes.
    pub levels: [f32; 16],
    /// Codes in ascending order of their values.
    pub ascending: [u8; 16],
    /// Bound `k` lies between the codes `ascending[k]` and `ascending[k + 1]`: their midpoint in `f32`.
    pub bounds: [f32; 15],
    /// The code of 0.
    pub zero: u8,
}

/// NF4: each weight is one of sixteen fixed levels, times the largest magnitude of its block.
///
/// The levels are quantiles of a normal distribution, scaled to `[-1, 1]`, with an exact zero
/// (Dettmers et al., "QLoRA", arXiv:2305.14314, appendix E). Levels and bounds are bitsandbytes' to the
/// bit, not recomputed: a checkpoint packed there has to unpack here.
///
/// The scales of blocks, ties, and the values of NaN, infinities, tiny and huge weights are described in
/// `blocks`.
#[rustfmt::skip]
pub const NF4: Table = Table {
    levels: floats([
    0xbf80_0000, 0xbf32_39b1, 0xbf06_6b30, 0xbeca_32a0, 0xbe91_a24d, 0xbe3d_353f, 0xbdba_7871, 0x0000_0000,
    0x3da2_faff, 0x3e24_cae3, 0x3e7c_04dd, 0x3ead_033a, 0x3ee1_a4b8, 0x3f10_07ab, 0x3f39_13b3, 0x3f80_0000,
]),
    ascending: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
    bounds: floats([
    0xbf59_1cd8, 0xbf1c_5270, 0xbeeb_8480, 0xbead_ea76, 0xbe70_3cec, 0xbe0d_38bc, 0xbd3a_7871,
    0x3d22_faff, 0x3df6_4862, 0x3e50_67e0, 0x3e95_82d4, 0x3ec7_53f9, 0x3f00_6d04, 0x3f24_8daf, 0x3f5c_89da,
]),
    zero: 7,
};

/// FP4: each weight is a 4-bit float, times the largest magnitude of its block.
///
/// bitsandbytes' own 4-bit float: a sign bit, and eight magnitudes `{0, 1/16, 8, 12, 4, 6, 2, 3} / 12`,
/// which are neither in order nor those of the OCP "E2M1". Code 8 is the zero with a sign; its value is
/// +0, as in bitsandbytes' table (its scalar C++ and its CUDA kernels give -0).
///
/// The scales of blocks, ties, and the values of NaN, infinities, tiny and huge weights are described in
/// `blocks`. The codes are chosen as the CPU code of bitsandbytes 0.50 does, where the zero of small *positive* weights is code 8.
#[rustfmt::skip]
pub const FP4: Table = Table {
    levels: floats([
    0x0000_0000, 0x3baa_aaab, 0x3f2a_aaab, 0x3f80_0000, 0x3eaa_aaab, 0x3f00_0000, 0x3e2a_aaab, 0x3e80_0000,
    0x0000_0000, 0xbbaa_aaab, 0xbf2a_aaab, 0xbf80_0000, 0xbeaa_aaab, 0xbf00_0000, 0xbe2a_aaab, 0xbe80_0000,
]),
    ascending: [11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3],
    bounds: floats([
    0xbf55_5556, 0xbf15_5556, 0xbed5_5556, 0xbe95_5556, 0xbe55_5556, 0xbdb0_0000, 0xbb2a_aaab, 0x0000_0000,
    0x3b2a_aaab, 0x3db0_0000, 0x3e55_5556, 0x3e95_5556, 0x3ed5_5556, 0x3f15_5556, 0x3f55_5556,
]),
    zero: 0,
};

impl Table {
    /// The code of a weight that is already divided by the scale of its block, for custom methods that choose scales
    /// differently: `ascending[k]` where `k` bounds lie strictly below it, and `ascending[15]` for NaN.
    pub fn code(&self, scaled: f32) -> u8 {
        let below = self.bounds.iter().filter(|bound| scaled > **bound).count();
        self.ascending[if scaled.is_nan() { 15 } else { below }]
    }
}

/// A [`Table`] as a type, so that code for each is compiled with its numbers.
pub(crate) trait LevelTable: Send + Sync + 'static {
    /// Name in errors.
    const NAME: &'static str;

    /// The numbers.
    const TABLE: Table;

    /// [`Table::levels`].
    const LEVELS: [f32; 16] = Self::TABLE.levels;

    /// [`Table::ascending`].
    const ASCENDING: [u8; 16] = Self::TABLE.ascending;

    /// [`Table::bounds`].
    const BOUNDS: [f32; 15] = Self::TABLE.bounds;

    /// The format of these levels.
    fn format(blocks: Blocks) -> Format;
}

/// [`NF4`] as a type.
pub(crate) enum Nf4 {}

impl LevelTable for Nf4 {
    const NAME: &'static str = "nf4";
    const TABLE: Table = NF4;

    fn format(blocks: Blocks) -> Format {
        Format::Nf4(blocks)
    }
}

/// [`FP4`] as a type.
pub(crate) enum Fp4 {}

impl LevelTable for Fp4 {
    const NAME: &'static str = "fp4";
    const TABLE: Table = FP4;

    fn format(blocks: Blocks) -> Format {
        Format::Fp4(blocks)
    }
}
