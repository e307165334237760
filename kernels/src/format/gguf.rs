//! The block types of GGUF files: how many weights share a block, and how many bytes a block takes.

use core::fmt;

use crate::arith::pack::CODES8;

/// A block type of GGUF: some consecutive weights of a row, with their scales, in a fixed number of bytes.
///
/// The types that are plain floats are no blocks: `F32`, and [`Half`](super::Half).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum Gguf {
    /// 4-bit whole numbers with a scale, 32 together.
    Q4_0,
    /// 4-bit whole numbers with a scale and a minimum, 32 together.
    Q4_1,
    /// 5-bit whole numbers with a scale, 32 together.
    Q5_0,
    /// 5-bit whole numbers with a scale and a minimum, 32 together.
    Q5_1,
    /// Signed bytes with a scale, 32 together.
    Q8_0,
    /// 2-bit whole numbers; each 16 have a 4-bit scale and a 4-bit minimum, 256 together.
    Q2K,
    /// 3-bit whole numbers; each 16 have a 6-bit scale, 256 together.
    Q3K,
    /// 4-bit whole numbers; each 32 have a 6-bit scale and a 6-bit minimum, 256 together.
    Q4K,
    /// 5-bit whole numbers; each 32 have a 6-bit scale and a 6-bit minimum, 256 together.
    Q5K,
    /// 6-bit whole numbers; each 16 have an 8-bit scale, 256 together.
    Q6K,
    /// Eights of a list of 256, with signs; each 32 have a 4-bit scale, 256 together.
    Iq2Xxs,
    /// Eights of a list of 512, with signs; each 16 have a 4-bit scale, 256 together.
    Iq2Xs,
    /// Eights of a list of 1024, with signs; each 16 have a 4-bit scale, 256 together.
    Iq2S,
    /// Fours of a list of 256, with signs; each 32 have a 4-bit scale, 256 together.
    Iq3Xxs,
    /// Fours of a list of 512, with signs; each 32 have a 4-bit scale, 256 together.
    Iq3S,
    /// Eights of a list of 2048, shifted; each 32 have a 3-bit scale, 256 together.
    Iq1S,
    /// Eights of a list of 2048, shifted; each 16 have a 3-bit scale, 256 together.
    Iq1M,
    /// Sixteen uneven levels with a scale, 32 together.
    Iq4Nl,
    /// Sixteen uneven levels; each 32 have a 6-bit scale, 256 together.
    Iq4Xs,
    /// Ternary numbers, five a byte, with a scale, 256 together.
    Tq1_0,
    /// Ternary numbers, four a byte, with a scale, 256 together.
    Tq2_0,
    /// 4-bit floats with a power of two, 32 together.
    Mxfp4,
    /// 4-bit floats; each 16 have an 8-bit float, 64 together.
    Nvfp4,
    /// Signs with a scale, 128 together.
    Q1_0,
    /// 2-bit whole numbers with a scale, 64 together.
    Q2_0,
}

/// The constants of a block type.
struct BlockFacts {
    /// The number of the type in files, of `enum ggml_type`.
    number: u32,
    /// The name that llama.cpp prints, in lower case.
    name: &'static str,
    /// Weights of a block.
    block: usize,
    /// Bytes of a block.
    bytes: usize,
    /// Bits of a code; of types with lists, the bits of an index divided by the weights that it stands for.
    bits: usize,
    /// Weights under one scale.
    part: usize,
}

impl Gguf {
    /// All of them.
    pub const ALL: [Self; 25] = [
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Iq2Xxs,
        Self::Iq2Xs,
        Self::Iq2S,
        Self::Iq3Xxs,
        Self::Iq3S,
        Self::Iq1S,
        Self::Iq1M,
        Self::Iq4Nl,
        Self::Iq4Xs,
        Self::Tq1_0,
        Self::Tq2_0,
        Self::Mxfp4,
        Self::Nvfp4,
        Self::Q1_0,
        Self::Q2_0,
    ];

    /// Those whose codes can be chosen: see [`packer`](crate::formats::gguf::packer).
    pub const CHOSEN: [Self; 11] = [
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Iq4Nl,
    ];

    /// `ggml-common.h` of llama.cpp (MIT), and `enum ggml_type` of `ggml.h`.
    #[rustfmt::skip]
    const fn facts(self) -> BlockFacts {
        let (number, name, block, bytes, bits, part) = match self {
            Self::Q4_0   => (2,  "q4_0",    32,  18,  4, 32),
            Self::Q4_1   => (3,  "q4_1",    32,  20,  4, 32),
            Self::Q5_0   => (6,  "q5_0",    32,  22,  5, 32),
            Self::Q5_1   => (7,  "q5_1",    32,  24,  5, 32),
            Self::Q8_0   => (8,  "q8_0",    32,  34,  8, 32),
            Self::Q2K    => (10, "q2_k",    256, 84,  2, 16),
            Self::Q3K    => (11, "q3_k",    256, 110, 3, 16),
            Self::Q4K    => (12, "q4_k",    256, 144, 4, 32),
            Self::Q5K    => (13, "q5_k",    256, 176, 5, 32),
            Self::Q6K    => (14, "q6_k",    256, 210, 6, 16),
            Self::Iq2Xxs => (16, "iq2_xxs", 256, 66,  2, 32),
            Self::Iq2Xs  => (17, "iq2_xs",  256, 74,  2, 16),
            Self::Iq3Xxs => (18, "iq3_xxs", 256, 98,  3, 32),
            Self::Iq1S   => (19, "iq1_s",   256, 50,  1, 32),
            Self::Iq4Nl  => (20, "iq4_nl",  32,  18,  4, 32),
            Self::Iq3S   => (21, "iq3_s",   256, 110, 3, 32),
            Self::Iq2S   => (22, "iq2_s",   256, 82,  2, 16),
            Self::Iq4Xs  => (23, "iq4_xs",  256, 136, 4, 32),
            Self::Iq1M   => (29, "iq1_m",   256, 56,  1, 16),
            Self::Tq1_0  => (34, "tq1_0",   256, 54,  2, 256),
            Self::Tq2_0  => (35, "tq2_0",   256, 66,  2, 256),
            Self::Mxfp4  => (39, "mxfp4",   32,  17,  4, 32),
            Self::Nvfp4  => (40, "nvfp4",   64,  36,  4, 16),
            Self::Q1_0   => (41, "q1_0",    128, 18,  1, 128),
            Self::Q2_0   => (42, "q2_0",    64,  18,  2, 64),
        };
        BlockFacts { number, name, block, bytes, bits, part }
    }

    /// The type that has this number in files.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.number() == number)
    }

    /// The number of the type in files.
    pub const fn number(self) -> u32 {
        self.facts().number
    }

    /// The name in llama.cpp's programs, in lower case.
    pub const fn name(self) -> &'static str {
        self.facts().name
    }

    /// Weights of a block, consecutive in a row.
    pub const fn block(self) -> usize {
        self.facts().block
    }

    /// Bytes of a block.
    pub const fn bytes(self) -> usize {
        self.facts().bytes
    }

    /// Bits of a code, scales not counted.
    pub const fn bits(self) -> usize {
        self.facts().bits
    }

    /// Weights under one scale.
    pub const fn part(self) -> usize {
        self.facts().part
    }

    /// Bytes of a row of whole blocks.
    pub const fn row_bytes(self, cols: usize) -> usize {
        (cols / self.block()).saturating_mul(self.bytes())
    }

    /// Words of a weight of `[o, i]`.
    pub(crate) const fn words_len(self, [o, i]: [usize; 2]) -> usize {
        let blocks = o.saturating_mul(i.div_ceil(self.block()));
        blocks.saturating_mul(self.bytes()).div_ceil(CODES8)
    }
}

/// The words a quantization is asked for with. Two names are those of [`Micro`](super::Micro) formats, which lie
/// otherwise in memory.
impl fmt::Display for Gguf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if matches!(self, Self::Mxfp4 | Self::Nvfp4) {
            f.write_str("gguf:")?;
        }
        f.write_str(self.name())
    }
}
