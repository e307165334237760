//! The levels of 4 bits, and the blocks that share a scale.

use firebox_kernels::{
    format::{Blocks, Format},
    formats::bits4::levels::{FP4, NF4},
};

/// Whose levels the codes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum QuantType {
    Nf4,
    Fp4,
}

impl QuantType {
    pub(super) const ALL: [Self; 2] = [Self::Nf4, Self::Fp4];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Nf4 => "nf4",
            Self::Fp4 => "fp4",
        }
    }

    pub(super) const fn values(self) -> &'static [f32; 16] {
        match self {
            Self::Nf4 => &NF4.levels,
            Self::Fp4 => &FP4.levels,
        }
    }

    /// The code of 0, which fills up a last byte.
    pub(super) const fn zero(self) -> u8 {
        match self {
            Self::Nf4 => NF4.zero,
            Self::Fp4 => FP4.zero,
        }
    }

    pub(super) const fn format(self, blocks: Blocks) -> Format {
        match self {
            Self::Nf4 => Format::Nf4(blocks),
            Self::Fp4 => Format::Fp4(blocks),
        }
    }
}

/// The block that gives `g` scales to `n` weights; bitsandbytes' own where several do, since then one block
/// holds everything.
pub(super) fn block(n: usize, g: usize) -> Option<usize> {
    let fits = |block: &usize| n.div_ceil(*block) == g;
    let mut blocks = [64, 32, 128, 256, 512, 1024, 2048, 4096].into_iter();
    blocks.find(fits)
}
