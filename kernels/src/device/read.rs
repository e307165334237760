//! A packed weight as kernels read it, in any format.

use cubecl::prelude::*;

use crate::format::{Format, Tile};
use crate::{fp8, nested, pack};

/// The buffers of a packed weight, and what a kernel cannot know of its shape when it is compiled.
#[derive(CubeType, CubeLaunch)]
pub(crate) struct Stored {
    /// Codes.
    pub(crate) words: Box<[u32]>,
    /// Everything else.
    pub(crate) scales: Box<[u32]>,
    /// The sixteen levels of a 4-bit format, nothing of use elsewhere.
    pub(crate) levels: Box<[f32]>,
    /// [`MAP`](nested::MAP) where scales are nested, nothing of use elsewhere.
    pub(crate) map: Box<[f32]>,
    /// Weights of a row.
    pub(crate) cols: u32,
    /// The word of `scales` at which the upper ones begin, where they are nested.
    pub(crate) upper: u32,
    /// 0; see [`rounded`](crate::launch::rounded).
    pub(crate) zero: u32,
    /// What the words mean.
    #[cube(comptime)]
    pub(crate) format: Format,
}

/// Codes of a word.
pub(crate) const fn codes_of(format: Format) -> usize {
    match format {
        Format::Nf4(_) | Format::Fp4(_) => pack::CODES4,
        Format::Fp8(..) => pack::CODES8,
    }
}

/// The weight in row `r`, column `c`.
#[cube]
pub(crate) fn weight(stored: &Stored, r: usize, c: usize) -> f32 {
    let k = r * stored.cols as usize + c;
    let codes = comptime!(codes_of(stored.format));
    let bits = comptime!(32 / codes as u32);
    let code = stored.words[k / codes] >> (k as u32 % comptime!(codes as u32) * bits);
    value(stored, code) * scale(stored, r, c, k)
}

/// The value of the code in the lowest bits of `word`, not scaled.
#[cube]
pub(crate) fn value(stored: &Stored, word: u32) -> f32 {
    match comptime!(stored.format) {
        Format::Nf4(_) | Format::Fp4(_) => stored.levels[(word & 0xf) as usize],
        Format::Fp8(kind, _) => fp8::cube::value(word, kind),
    }
}

/// The scale of the weight in row `r`, column `c`, which is `k` in the whole weight.
#[cube]
pub(crate) fn scale(stored: &Stored, r: usize, c: usize, k: usize) -> f32 {
    match comptime!(stored.format) {
        Format::Nf4(blocks) | Format::Fp4(blocks) => {
            let block = k / blocks.block;
            if blocks.nested {
                let upper = stored.upper as usize;
                nested::cube::get(&stored.scales, &stored.map, upper, block, stored.zero)
            } else {
                f32::reinterpret(stored.scales[block])
            }
        }
        Format::Fp8(_, tile) => f32::reinterpret(stored.scales[tile_of(stored, r, c, tile)]),
    }
}

/// The tile of row `r`, column `c`, among all tiles of the weight.
#[cube]
fn tile_of(stored: &Stored, r: usize, c: usize, #[comptime] tile: Tile) -> usize {
    match tile {
        Tile::Tensor => 0usize.runtime(),
        Tile::Row => r,
        Tile::Block { rows, cols } => {
            let across = (stored.cols as usize).div_ceil(cols);
            r / rows * across + c / cols
        }
    }
}
