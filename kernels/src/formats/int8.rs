//! INT8: each weight is a signed byte, times the largest magnitude of its row, over 127.
//!
//! ```text
//! weight[r, c] = code[r, c] * largest[r] * (1 / 127)          two f32 roundings, in this order
//! ```
//!
//! That is the weight of LLM.int8 (Dettmers et al., arXiv:2208.07339) without its second half: no column is
//! kept aside as an outlier, and inputs are not quantized.
//!
//! Codes are those of `int8_vectorwise_quant` of bitsandbytes 0.50 on the CPU, to the bit, with no threshold,
//! on the weights as they are stored. `Linear8bitLt`, and so `load_in_8bit`, casts its weight to f16 first:
//! for an f16 checkpoint that is the same. From f32 and bf16 it rounds the weights once more and gives
//! infinities above 65504; we do not. A weight that is cast by the caller gets the bytes of `Linear8bitLt`.
//!
//! # Values after dequantizing
//!
//! | the row holds | it dequantizes to |
//! |---|---|
//! | a NaN or an infinity | NaN everywhere |
//! | zeros only | `+0`, also for `-0` |
//! | at most `m`, up to 3.7e-37 | 0: `127 / m` overflows |
//! | at most `m`, above 2.7e36 | infinities for the largest: `code * m` overflows |
//! | at most `m`, in all other cases | `m` to the last bit or two; 0 for less than `m / 254` |
//!
//! Letters: `o` rows, `i` columns, `n = o * i`.

#[cfg(feature = "cube")]
pub(crate) mod cube;
#[cfg(feature = "cube")]
pub(crate) mod pack_cube;

use rayon::prelude::*;

use crate::arith::float::{DType, absmax_stored};
use crate::arith::lanes::for_processors;
use crate::arith::number::Narrow;
use crate::arith::pack::{self, CODES8};
use crate::arith::whole;
use crate::format::FormatError;
use crate::format::{Format, PackedRows};
use crate::packer::{self, FeedOrder, Packer};

/// Between two neighbouring codes where the largest magnitude is 1: the number that bitsandbytes writes
/// as 0.007874015718698502.
pub const STEP: f32 = 1.0 / 127.0;

/// The value of a code in a row whose largest magnitude is `largest`, rounding twice.
#[inline(always)]
fn value(code: i8, largest: f32) -> f32 {
    f32::from(code) * largest * STEP
}

/// Dequantizes rows until `out` is full.
#[inline(always)]
pub(crate) fn unpack<T: Narrow>(part: PackedRows<'_>, out: &mut [T]) {
    let i = part.shape[1];
    for (r, values) in (part.first_row..).zip(out.chunks_mut(i.max(1))) {
        let largest = f32::from_bits(part.scales[r]);
        pack::unpack8(part.words, r * i, values, |code| value(code as i8, largest));
    }
}

/// The factor of a row's weights: `1 / largest * 127`, rounding twice.
fn factor(largest: f32) -> f32 {
    // PyTorch computes `127 / largest` as `(1 / largest) * 127`.
    1.0 / largest * 127.0
}

/// The code of one weight: the nearest, a tie to the even one, 0 for NaN and infinities.
#[inline(always)]
fn code(weight: f32, factor: f32) -> u8 {
    let code = weight * factor;
    // No finite product is larger than 127 by more than its rounding.
    let code = if code.abs() < 128.0 { code } else { 0.0 };
    // At 1.5 * 2^23 an f32 steps by 1: the adder rounds, and the low bits are the code's.
    const WHOLE: f32 = 12_582_912.0;
    (code + WHOLE).to_bits() as u8
}

/// Packs a weight of `shape` `[o, i]`. One pass.
///
/// # Errors
///
/// [`FormatError::Size`].
pub fn packer(shape: [usize; 2], source: DType) -> Result<Box<dyn Packer>, FormatError> {
    packer::check_size(shape)?;
    let tile_rows = whole::tile_rows(shape, 1, CODES8);
    Ok(Box::new(Int8Packer {
        source,
        order: FeedOrder::new(Format::Int8, shape, source, tile_rows, 1),
        largest: vec![0.0; shape[0]],
    }))
}

for_processors! {
    /// Codes of weights of one row.
    fn encode(source: DType, factor: f32, bytes: &[u8], codes: &mut [u8]) {
        packer::code8(source, bytes, codes, |weight| code(weight, factor));
    }
}

struct Int8Packer {
    source: DType,
    order: FeedOrder,
    /// `[o]`.
    largest: Vec<f32>,
}

impl Packer for Int8Packer {
    packer::in_order!();

    fn feed(&mut self, pass: usize, first_row: usize, tile: &[u8], words: &mut [u32]) {
        let fed = self.order.accept(pass, first_row, tile, words);
        if tile.is_empty() {
            return;
        }
        let (source, i) = (self.source, self.order.shape[1]);
        let largest = &mut self.largest[first_row..][..fed];
        tile.par_chunks(i * source.size())
            .zip(&mut *largest)
            .for_each(|(row, largest)| *largest = absmax_stored(source, row));

        packer::choose8(source, tile, words, |k, bytes, codes| {
            // Up to the end of the row.
            let len = (i - k % i).min(codes.len());
            let factor = factor(largest[k / i]);
            encode(
                source,
                factor,
                &bytes[..len * source.size()],
                &mut codes[..len],
            );
            len
        });
    }

    fn finish(self: Box<Self>) -> Vec<u32> {
        self.order.finish();
        self.largest.into_iter().map(f32::to_bits).collect()
    }
}
