//! NF4 and FP4: sixteen levels, times the largest magnitude of a block.
//!
//! ```text
//! weight[k] = LEVELS[code[k]] * absmax[k / block]          k over the flattened [o, i] weight
//! ```
//!
//! Codes are chosen as bitsandbytes 0.50 chooses them on the CPU, to the bit:
//!
//! * a full block scales by `1 / absmax`, the partial last one divides by `absmax`;
//! * the code is the number of bounds *strictly* below the scaled weight, a bound being the f32
//!   midpoint of two neighbouring levels: a weight in the middle takes the lower one;
//! * NaN lies above every bound.
//!
//! bitsandbytes on CUDA differs in the last bit of some bounds and in the all-zero block, whose codes
//! do not matter. Both unpack the same way.
//!
//! # Values after dequantizing
//!
//! | the block holds | its scale | it dequantizes to |
//! |---|---|---|
//! | a NaN | NaN | NaN everywhere |
//! | an infinity, no NaN | infinite | `+inf` for every infinity, *also for `-inf`* (`inf * 0` and `inf / inf` are NaN, which has the code of level 1); NaN for every finite weight (level 0 times the scale) |
//! | zeros only | 0, in a partial block 1e-38 | `+0`, also for `-0` |
//! | at most `m < 1e-38` | `m`, in a partial block 1e-38 | in a full block less than there was, as if every weight were scaled by `m / 1e-38` once more |
//! | at most `m`, up to `f32::MAX` | `m` | the largest magnitude exactly; finite values stay finite |
//!
//! Nested scales know their offset only from all scales of the weight. One scale that is NaN or infinite,
//! or scales whose sum overflows, make every weight of it NaN.
//!
//! Letters: `o` rows, `i` columns, `n = o * i`, `g` blocks.

#[cfg(feature = "cube")]
pub(crate) mod cube;
pub mod levels;

#[cfg(feature = "cube")]
pub(crate) mod pack_cube;

use core::marker::PhantomData;

use rayon::prelude::*;

use crate::arith::float::{DType, absmax_here};
use crate::arith::lanes::{Lanes, each, for_processors};
use crate::arith::number::Narrow;
use crate::arith::pack::{self, CODES4, STREAM};
use crate::arith::whole;
use crate::format::FormatError;
use crate::format::blocks::MAX;
use crate::format::{Blocks, Format, Packed, PackedRows};
use crate::formats::nested::{self, Nested};
use crate::packer::{self, FeedOrder, Packer};
use levels::{Fp4, LevelTable, Nf4};

/// Magnitudes below this count as this, so that no block divides by zero.
const FLOOR: f32 = 1e-38;

/// Scales of blocks, read in place.
#[derive(Debug, Clone, Copy)]
pub enum Scales<'a> {
    /// `[g]`, bits of `f32`.
    Plain(&'a [u32]),
    /// 8-bit codes.
    Nested(Nested<'a>),
}

impl<'a> Scales<'a> {
    /// Reads the scales of a weight of `n`.
    ///
    /// # Panics
    ///
    /// When `words` are not [`Format::scales_len`] words.
    pub fn new(blocks: Blocks, n: usize, words: &'a [u32]) -> Self {
        let g = blocks.count(n);
        if blocks.nested {
            return Self::Nested(Nested::new(words, g));
        }
        assert_eq!(words.len(), g, "words of {g} scales");
        Self::Plain(words)
    }

    /// The scale of block `k`.
    #[inline]
    pub fn get(&self, k: usize) -> f32 {
        match self {
            Self::Plain(scales) => f32::from_bits(scales[k]),
            Self::Nested(nested) => nested.get(k),
        }
    }

    /// The scales of the blocks from `first` on.
    #[inline(always)]
    pub(crate) fn fill(&self, first: usize, out: &mut [f32]) {
        match self {
            Self::Plain(scales) => {
                for (to, bits) in out.iter_mut().zip(&scales[first..]) {
                    *to = f32::from_bits(*bits);
                }
            }
            Self::Nested(nested) => nested.fill(first, out),
        }
    }
}

impl Format {
    /// A 4-bit format with scales that are nested or plain; every other format as it is.
    pub fn renested(self, nested: bool) -> Self {
        let with = |blocks: Blocks| Blocks { nested, ..blocks };
        match self {
            Self::Nf4(blocks) => Self::Nf4(with(blocks)),
            Self::Fp4(blocks) => Self::Fp4(with(blocks)),
            other => other,
        }
    }

    /// Whether its scales are nested.
    pub const fn is_nested(self) -> bool {
        matches!(self, Self::Nf4(blocks) | Self::Fp4(blocks) if blocks.nested)
    }
}

impl Packed {
    /// Refuses scales by which every value of the weight is lost: nested ones whose mean is not finite.
    ///
    /// # Errors
    ///
    /// [`FormatError::NestedMean`](crate::format::FormatError::NestedMean).
    pub fn check_scales(&self) -> Result<(), FormatError> {
        match self.scales.last() {
            Some(mean) if self.format.is_nested() => nested::check(*mean),
            _ => Ok(()),
        }
    }

    /// The same codes of a 4-bit format under scales that are nested or plain, and a weight in another format as it is.
    /// Plain scales are those that the nested ones give, to the bit; nested ones are the nearest codes.
    pub fn renested(self, nested: bool) -> Self {
        let blocks = match self.format {
            Format::Nf4(blocks) | Format::Fp4(blocks) if blocks.nested != nested => blocks,
            _ => return self,
        };
        let n = self.shape[0] * self.shape[1];
        let scales = Scales::new(blocks, n, &self.scales);
        let absmax: Vec<f32> = (0..blocks.count(n)).map(|k| scales.get(k)).collect();
        let scales = if nested {
            nested::quantize(&absmax)
        } else {
            absmax.into_iter().map(f32::to_bits).collect()
        };
        Self {
            format: self.format.renested(nested),
            scales,
            ..self
        }
    }
}

/// Dequantizes values until `out` is full.
#[inline(always)]
pub(crate) fn unpack<S: LevelTable, L: Lanes, T: Narrow>(
    lanes: L,
    blocks: Blocks,
    part: PackedRows<'_>,
    out: &mut [T],
) {
    let [o, i] = part.shape;
    let (levels, scales) = (
        lanes.load(&S::LEVELS),
        Scales::new(blocks, o * i, part.scales),
    );
    let (mut first, mut rest) = (part.first_row * i, out);
    while !rest.is_empty() {
        let block = first / blocks.block;
        let len = ((block + 1) * blocks.block - first).min(rest.len());
        let (values, after) = rest.split_at_mut(len);
        // Sixteen products a block instead of one a weight: the same products.
        let table = lanes.mul(levels, lanes.splat(scales.get(block)));
        pack::look_up4(lanes, part.words, first, table, values);
        first += len;
        rest = after;
    }
}

/// [`Table::code`](levels::Table::code) as a part of vector code: no branch and no table.
///
/// Four compares, each with a bound chosen by the ones before: half the work of comparing with all fifteen.
#[inline(always)]
#[expect(
    clippy::neg_cmp_op_on_partial_ord,
    reason = "NaN has to count as above"
)]
fn code_here<L: LevelTable>(scaled: f32) -> u8 {
    let bound = |k: usize| L::BOUNDS[k];
    let pick = |above: bool, high: f32, low: f32| if above { high } else { low };
    let eighth = !(scaled <= bound(7));
    let fourth = !(scaled <= pick(eighth, bound(11), bound(3)));
    let low = pick(eighth, bound(9), bound(1));
    let high = pick(eighth, bound(13), bound(5));
    let second = !(scaled <= pick(fourth, high, low));
    let low = pick(
        fourth,
        pick(eighth, bound(12), bound(4)),
        pick(eighth, bound(8), bound(0)),
    );
    let high = pick(
        fourth,
        pick(eighth, bound(14), bound(6)),
        pick(eighth, bound(10), bound(2)),
    );
    let first = !(scaled <= pick(second, high, low));
    let bit = |above: bool, value: u32| if above { value } else { 0 };
    let below = bit(fourth, 4) | bit(second, 2) | bit(first, 1);
    if const { ascends::<L>() } {
        return (below | bit(eighth, 8)) as u8;
    }
    let half = const { halves::<L>() };
    let half = if eighth { half[1] } else { half[0] };
    (half >> (4 * below) & 0xf) as u8
}

/// Whether codes are in the order of their values.
const fn ascends<L: LevelTable>() -> bool {
    let mut k = 0;
    while k < 16 {
        if L::ASCENDING[k] != k as u8 {
            return false;
        }
        k += 1;
    }
    true
}

/// [`LevelTable::ASCENDING`] in two words.
const fn halves<L: LevelTable>() -> [u32; 2] {
    let mut halves = [0; 2];
    let mut k = 0;
    while k < 16 {
        halves[k / 8] |= (L::ASCENDING[k] as u32) << (4 * (k % 8));
        k += 1;
    }
    halves
}

for_processors! {
    /// Chooses the codes of some blocks of `block` weights, the last of which may be partial, and their scales.
    fn pack_blocks<L: LevelTable>(
        source: DType,
        block: usize,
        bytes: &[u8],
        words: &mut [u32],
        absmax: &mut [f32],
    ) {
        match source {
            DType::F32 => pack_stored::<L>(DType::F32, block, bytes, words, absmax),
            DType::F16 => pack_stored::<L>(DType::F16, block, bytes, words, absmax),
            DType::Bf16 => pack_stored::<L>(DType::Bf16, block, bytes, words, absmax),
        }
    }
}

/// `source` is known to the compiler.
#[inline(always)]
fn pack_stored<L: LevelTable>(
    source: DType,
    block: usize,
    bytes: &[u8],
    words: &mut [u32],
    absmax: &mut [f32],
) {
    let blocks = bytes.chunks(block * source.size());
    let words = words.chunks_mut(block / CODES4);
    for ((bytes, words), absmax) in blocks.zip(words).zip(absmax) {
        let largest = absmax_here(source, bytes);
        // Not `f32::max`: NaN has to stay.
        let divisor = if largest < FLOOR { FLOOR } else { largest };
        if bytes.len() == block * source.size() {
            *absmax = largest;
            let factor = 1.0 / divisor;
            pack_block::<L>(source, bytes, words, |value| value * factor);
        } else {
            *absmax = divisor;
            pack_block::<L>(source, bytes, words, |value| value / divisor);
        }
    }
}

/// Chooses the codes of one block whose weights `scale` divides by the largest.
#[inline(always)]
fn pack_block<L: LevelTable>(
    source: DType,
    bytes: &[u8],
    words: &mut [u32],
    scale: impl Fn(f32) -> f32,
) {
    // bitsandbytes clamps to [-1, 1] here. Every bound lies inside, so that no code would change.
    let streams = bytes.chunks(STREAM * source.size());
    for (bytes, words) in streams.zip(words.chunks_mut(STREAM / CODES4)) {
        let mut values = [0.0; STREAM];
        let len = bytes.len() / source.size();
        // Of whole streams, nothing needs to go through memory.
        if len == STREAM {
            source.widen_here(bytes, &mut values);
            let codes = each(
                &values,
                #[inline(always)]
                |value| code_here::<L>(scale(value)),
            );
            words.copy_from_slice(&pack::pack_bytes::<4>(&codes));
        } else {
            source.widen_here(bytes, &mut values[..len]);
            let mut codes = each(
                &values,
                #[inline(always)]
                |value| code_here::<L>(scale(value)),
            );
            codes[len..].fill(0);
            words.copy_from_slice(&pack::pack_bytes::<4>(&codes)[..words.len()]);
        }
    }
}

/// Packs a weight of `shape` `[o, i]` as NF4. `nested` stores the scales as 8-bit codes.
///
/// # Errors
///
/// [`FormatError::Block`] unless `block` is a power of two from 32 to 4096; [`FormatError::Size`].
pub fn nf4(
    shape: [usize; 2],
    source: DType,
    block: usize,
    nested: bool,
) -> Result<Box<dyn Packer>, FormatError> {
    packer::<Nf4>(shape, source, block, nested)
}

/// Packs a weight of `shape` `[o, i]` as FP4, otherwise as [`nf4`] does.
///
/// # Errors
///
/// As [`nf4`].
pub fn fp4(
    shape: [usize; 2],
    source: DType,
    block: usize,
    nested: bool,
) -> Result<Box<dyn Packer>, FormatError> {
    packer::<Fp4>(shape, source, block, nested)
}

/// Packs a weight into blocks. One pass; a tile is whole blocks and whole words.
struct BlocksPacker<L> {
    source: DType,
    blocks: Blocks,
    order: FeedOrder,
    /// Weights already packed.
    done: usize,
    /// `[g]`.
    absmax: Vec<f32>,
    levels: PhantomData<L>,
}

/// The packer of the levels `L` for a weight of `shape` `[o, i]`.
fn packer<L: LevelTable>(
    shape: [usize; 2],
    source: DType,
    block: usize,
    nested: bool,
) -> Result<Box<dyn Packer>, FormatError> {
    let blocks = Blocks::new(L::NAME, block, nested)?;
    packer::check_size(shape)?;
    let n = shape[0] * shape[1];
    Ok(Box::new(BlocksPacker::<L> {
        source,
        blocks,
        order: FeedOrder::new(
            L::format(blocks),
            shape,
            source,
            whole::tile_rows(shape, 1, block),
            1,
        ),
        done: 0,
        absmax: vec![0.0; blocks.count(n)],
        levels: PhantomData,
    }))
}

impl<L: LevelTable> Packer for BlocksPacker<L> {
    packer::in_order!();

    fn feed(&mut self, pass: usize, first_row: usize, tile: &[u8], words: &mut [u32]) {
        self.order.accept(pass, first_row, tile, words);
        let (source, block) = (self.source, self.blocks.block);
        // A job is whole blocks, and enough of them that handing it out costs nothing.
        let job_blocks = 4 * MAX / block;
        let job = job_blocks * block;

        let n = tile.len() / source.size();
        let absmax = &mut self.absmax[self.done / block..][..n.div_ceil(block)];
        tile.par_chunks(job * source.size())
            .zip(words.par_chunks_mut(job / CODES4))
            .zip(absmax.par_chunks_mut(job_blocks))
            .for_each(|((bytes, words), absmax)| {
                pack_blocks::<L>(source, block, bytes, words, absmax);
            });
        self.done += n;
    }

    fn finish(self: Box<Self>) -> Vec<u32> {
        self.order.finish();
        if self.blocks.nested {
            nested::quantize(&self.absmax)
        } else {
            self.absmax.into_iter().map(f32::to_bits).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vector_code_chooses_as_counting_does() {
        check_choose::<Nf4>();
        check_choose::<Fp4>();
    }

    /// The fast choice against the obvious one, on every bound, its neighbours, NaN and infinities.
    fn check_choose<L: LevelTable>() {
        let near = L::BOUNDS.map(|bound| [bound.next_down(), bound, bound.next_up()]);
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        let odd = [0.0, -0.0, 1.0, -1.0, 2.0, -2.0, nan, -nan, inf, -inf];
        for value in near.into_iter().flatten().chain(odd) {
            let (found, expected) = (code_here::<L>(value), L::TABLE.code(value));
            assert_eq!(found, expected, "{} {value}", L::NAME);
        }
    }

    #[test]
    fn bounds_are_midpoints() {
        check_bounds::<Nf4>();
        check_bounds::<Fp4>();
    }

    /// A bound that is not the midpoint of its levels fails here, as does a level moved by one bit.
    fn check_bounds<L: LevelTable>() {
        let ascending = L::ASCENDING.map(|code| L::LEVELS[usize::from(code)]);
        for (k, [low, high]) in ascending.array_windows::<2>().enumerate() {
            let middle = (low + high) / 2.0;
            assert_eq!(L::BOUNDS[k].to_bits(), middle.to_bits(), "{} {k}", L::NAME);
        }
    }

    #[test]
    fn zero_has_its_code() {
        check_zero::<Nf4>();
        check_zero::<Fp4>();
    }

    fn check_zero<L: LevelTable>() {
        let zero = L::TABLE.zero;
        assert_eq!(L::LEVELS[usize::from(zero)].to_bits(), 0, "{}", L::NAME);
        assert_eq!(L::TABLE.code(0.0), zero, "{}", L::NAME);
    }
}
