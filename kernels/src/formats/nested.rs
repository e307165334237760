//! Nested scales: the scales of a 4-bit format, themselves kept as 8-bit codes.
//!
//! ```text
//! absmax[b] = MAP[code[b]] * upper[b / 256] + offset        (two roundings, f32)
//! ```
//!
//! bitsandbytes calls this `compress_statistics` and `bnb_4bit_use_double_quant`; the idea is
//! Dettmers et al., "QLoRA", arXiv:2305.14314, section 3 ("double quantization"), the map is
//! Dettmers et al., "8-bit Optimizers via Block-wise Quantization", arXiv:2110.02861.
//!
//! Which code is chosen depends on the release: CUDA and the CPU code up to 0.49 search the nearest
//! one, the CPU code of 0.50 looks it up in a table of 65536 bins, which is coarser near 0. Here it
//! is the nearest one, as the CPU code of 0.49 finds it. How codes are read is the same everywhere.
//!
//! # Words
//!
//! With `g` scales: `[ceil(g / 4)]` words of codes, `[ceil(g / 256)]` upper scales, one offset.

#[cfg(feature = "cube")]
pub(crate) mod cube;
#[cfg(feature = "cube")]
pub(crate) mod pack_cube;

use rayon::prelude::*;

use crate::arith::float::{absmax_of, floats};
use crate::arith::lanes::for_processors;
use crate::arith::pack;
use crate::arith::reduce;
use crate::format::FormatError;
pub use crate::format::blocks::{NESTED as BLOCK, nested_len as words_len};

/// Values of the 256 codes, ascending: bitsandbytes' `create_dynamic_map()` to the bit.
///
/// Codes 0 to 254 are symmetric around code 127, which is 0; code 255 is 1. The positive ones are seven
/// runs: run `r` spreads `2^r` values evenly over `[0.1, 1] * 10^(r - 6)`.
pub static MAP: [f32; 256] = map();

const fn map() -> [f32; 256] {
    let mut map = [0.0; 256];
    let mut k = 0;
    while k < POSITIVE.len() {
        map[128 + k] = POSITIVE[k];
        map[126 - k] = -POSITIVE[k];
        k += 1;
    }
    map[255] = 1.0;
    map
}

/// Codes 128 to 254.
#[rustfmt::skip]
const POSITIVE: [f32; 127] = floats([
    0x3513_a3b7, 0x365a_1a94, 0x3702_05ff, 0x37b2_4206, 0x3837_8034, 0x388a_efb3, 0x38ba_1f4b, 0x3923_d70b,
    0x398c_e705, 0x39c7_e283, 0x3a01_6f01, 0x3a1e_ecc1, 0x3a3c_6a80, 0x3a59_e83e, 0x3a77_65ff, 0x3aa7_ef9d,
    0x3af1_a9fc, 0x3b1d_b22d, 0x3b42_8f5c, 0x3b67_6c8a, 0x3b86_24dd, 0x3b98_9374, 0x3bab_020d, 0x3bbd_70a4,
    0x3bcf_df3b, 0x3be2_4dd3, 0x3bf4_bc6a, 0x3c03_9581, 0x3c0c_cccd, 0x3c16_0418, 0x3c1f_3b64, 0x3c3a_e148,
    0x3c68_f5c3, 0x3c8b_851f, 0x3ca2_8f5d, 0x3cb9_999a, 0x3cd0_a3d7, 0x3ce7_ae15, 0x3cfe_b852, 0x3d0a_e148,
    0x3d16_6667, 0x3d21_eb85, 0x3d2d_70a3, 0x3d38_f5c3, 0x3d44_7ae1, 0x3d50_0000, 0x3d5b_851f, 0x3d67_0a3d,
    0x3d72_8f5d, 0x3d7e_147b, 0x3d84_cccd, 0x3d8a_8f5d, 0x3d90_51eb, 0x3d96_147b, 0x3d9b_d70a, 0x3da1_999a,
    0x3da7_5c2a, 0x3dad_1eb8, 0x3db2_e148, 0x3db8_a3d7, 0x3dbe_6667, 0x3dc4_28f7, 0x3dc9_eb85, 0x3ddb_3334,
    0x3df8_0000, 0x3e0a_6666, 0x3e18_cccd, 0x3e27_3333, 0x3e35_999a, 0x3e44_0000, 0x3e52_6666, 0x3e60_cccd,
    0x3e6f_3333, 0x3e7d_9999, 0x3e86_0000, 0x3e8d_3334, 0x3e94_6666, 0x3e9b_999a, 0x3ea2_cccc, 0x3eaa_0000,
    0x3eb1_3333, 0x3eb8_6666, 0x3ebf_999a, 0x3ec6_cccc, 0x3ece_0000, 0x3ed5_3333, 0x3edc_6666, 0x3ee3_999a,
    0x3eea_cccc, 0x3ef2_0000, 0x3ef9_3332, 0x3f00_3333, 0x3f03_cccc, 0x3f07_6666, 0x3f0b_0000, 0x3f0e_999a,
    0x3f12_3334, 0x3f15_cccd, 0x3f19_6666, 0x3f1d_0000, 0x3f20_999a, 0x3f24_3334, 0x3f27_cccd, 0x3f2b_6666,
    0x3f2f_0000, 0x3f32_999a, 0x3f36_3334, 0x3f39_cccd, 0x3f3d_6666, 0x3f41_0000, 0x3f44_999a, 0x3f48_3333,
    0x3f4b_cccd, 0x3f4f_6666, 0x3f53_0000, 0x3f56_999a, 0x3f5a_3333, 0x3f5d_cccd, 0x3f61_6666, 0x3f65_0000,
    0x3f68_999a, 0x3f6c_3333, 0x3f6f_cccd, 0x3f73_6666, 0x3f77_0000, 0x3f7a_999a, 0x3f7e_3333,
]);

/// The code whose value is nearest to `value`; of two equally near, the lower. By itself, it is the
/// 8-bit code of bitsandbytes' block-wise quantization.
#[inline(always)]
pub fn nearest(value: f32) -> u8 {
    // How many codes are not above the value, at most 255, by halves and without a branch.
    let mut above = 0;
    let mut half = MAP.len() / 2;
    while half > 0 {
        above += if MAP[above + half - 1] <= value {
            half
        } else {
            0
        };
        half /= 2;
    }
    // The last code is not above the value either.
    if MAP[above] <= value {
        return above as u8;
    }
    // Distances are rounded to f32, as there.
    let below = above.saturating_sub(1);
    let nearer = (value - MAP[above]).abs() < (value - MAP[below]).abs();
    (if nearer { above } else { below }) as u8
}

for_processors! {
    /// Chooses the codes of up to 256 scales, and gives their upper scale.
    fn quantize_block(offset: f32, block: &[f32], codes: &mut [u8]) -> f32 {
        let largest = absmax_of(block.iter().map(|scale| scale - offset));
        for (code, scale) in codes.iter_mut().zip(block) {
            *code = match largest {
                0.0 => 0,
                _ => nearest((scale - offset) / largest),
            };
        }
        largest
    }
}

/// Blocks of a job: enough that handing it out costs nothing.
const JOB_BLOCKS: usize = 16;

/// Chooses codes for `absmax`, `[g]`; gives the words described above.
///
/// The offset is the mean. A block of 256 that is the offset throughout gets code 0, whose value does
/// not matter there. One scale that is not finite makes the mean, and so every scale, not finite.
pub fn quantize(absmax: &[f32]) -> Vec<u32> {
    let offset = if absmax.is_empty() {
        0.0
    } else {
        reduce::mean(absmax)
    };

    let mut codes = vec![0; absmax.len()];
    let mut upper = vec![0.0; absmax.len().div_ceil(BLOCK)];
    codes
        .par_chunks_mut(BLOCK)
        .zip(absmax.par_chunks(BLOCK))
        .zip(&mut upper)
        .with_min_len(JOB_BLOCKS)
        .for_each(|((codes, block), upper)| {
            *upper = quantize_block(offset, block, codes);
        });
    from_parts(&codes, &upper, offset)
}

/// Words from the parts that a packed checkpoint stores: `codes` `[g]`, `upper` `[ceil(g / 256)]`.
pub fn from_parts(codes: &[u8], upper: &[f32], offset: f32) -> Vec<u32> {
    let mut words = pack::from_bytes(codes);
    words.extend(upper.iter().map(|scale| scale.to_bits()));
    words.push(offset.to_bits());
    words
}

/// Refuses nested scales whose mean, bits of `f32` in their last word, is not finite.
///
/// # Errors
///
/// [`FormatError::NestedMean`].
pub fn check(mean: u32) -> Result<(), FormatError> {
    match f32::from_bits(mean) {
        mean if mean.is_finite() => Ok(()),
        mean => Err(FormatError::NestedMean { mean }),
    }
}

/// Nested scales, read in place.
#[derive(Debug, Clone, Copy)]
pub struct Nested<'a> {
    /// `[ceil(g / 4)]`, four codes a word.
    pub codes: &'a [u32],
    /// `[ceil(g / 256)]`, bits of `f32`.
    pub upper: &'a [u32],
    /// Added to every scale.
    pub offset: f32,
}

impl<'a> Nested<'a> {
    /// Reads the words of `g` scales.
    ///
    /// # Panics
    ///
    /// When there are not [`words_len`] of them.
    pub fn new(words: &'a [u32], g: usize) -> Self {
        assert_eq!(words.len(), words_len(g), "words of {g} nested scales");
        let (codes, rest) = words.split_at(g.div_ceil(pack::CODES8));
        let (upper, offset) = rest.split_at(g.div_ceil(BLOCK));
        Self {
            codes,
            upper,
            offset: f32::from_bits(offset[0]),
        }
    }

    /// The scale `k`.
    #[inline]
    pub fn get(&self, k: usize) -> f32 {
        let value = MAP[pack::code8(self.codes, k) as usize];
        value * f32::from_bits(self.upper[k / BLOCK]) + self.offset
    }

    /// The scales from `first` on.
    #[inline(always)]
    pub(crate) fn fill(&self, first: usize, out: &mut [f32]) {
        let (mut k, mut rest) = (first, out);
        while !rest.is_empty() {
            let len = (BLOCK - k % BLOCK).min(rest.len());
            let (values, after) = rest.split_at_mut(len);
            let upper = f32::from_bits(self.upper[k / BLOCK]);
            pack::unpack8(self.codes, k, values, |code| {
                MAP[usize::from(code)] * upper + self.offset
            });
            (k, rest) = (k + len, after);
        }
    }
}
