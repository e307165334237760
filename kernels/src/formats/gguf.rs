//! The blocks of GGUF files, as they stand in the file: each holds some consecutive weights of a row, their codes and
//! their scales. Rows are whole blocks.
//!
//! `words` of a packed weight are the bytes of its blocks, row after row, little-endian; there are no `scales`. So a
//! weight that is read from a file and written again has the same bytes.
//!
//! The layouts are those of `ggml-common.h`, the values those of `dequantize_row_*` in `ggml-quants.c` of llama.cpp
//! (MIT License, Georgi Gerganov and contributors; ggml 0.25). `d` and `m` are f16, widened; each operation is rounded
//! to `f32`, the scale of a part first:
//!
//! | type | weight |
//! |---|---|
//! | `q4_0`, `q5_0`, `q8_0` | `(code - 8) * d`, `(code - 16) * d`, `code * d` |
//! | `q4_1`, `q5_1` | `code * d + m` |
//! | `q2_k`, `q4_k`, `q5_k` | `(d * s) * code - m * t`, with whole numbers `s`, `t` of a part |
//! | `q3_k`, `q6_k` | `(d * (s - 32)) * (code - 4)`, `(d * s) * (code - 32)` |
//! | `iq4_nl`, `iq4_xs` | `d * level(code)`, `(d * (s - 32)) * level(code)` |
//! | `iq2_*`, `iq3_xxs` | `d * (0.5 + s) / 4` (`iq3_xxs`: `/ 2`) times a magnitude, with a sign |
//! | `iq3_s` | `d * (1 + 2 * s)` times a magnitude, with a sign |
//! | `iq1_s`, `iq1_m` | `d * (2 * s + 1) * (g + 1/8)` or `(g - 1/8)`, with `g` of -1, 0, 1 |
//! | `tq1_0`, `tq2_0`, `q2_0` | `(code - 1) * d` |
//! | `q1_0` | `d` or `-d` |
//! | `mxfp4`, `nvfp4` | `e2m1(code)` times the scale of 32 or 16 |
//!
//! # Values after dequantizing
//!
//! | the block holds | what [`packer`] chooses dequantizes to |
//! |---|---|
//! | a NaN | a number in its place; others of its part may become 0. As the last weight of a `q8_0` block, NaN throughout |
//! | an infinity, or a weight whose scale is beyond f16 | infinities and NaN in the block, or 0 in its part |
//!
//! Letters: `o` rows, `i` columns.

mod choose;
#[cfg(feature = "cube")]
pub(crate) mod cube;
mod ends;
mod floats;
mod grids;
mod k;
mod legacy;
mod lists;
mod parts;

pub use choose::packer;
pub(crate) use choose::{check, tile_rows};
#[cfg(feature = "cube")]
pub(crate) use ends::numbers;
pub(crate) use ends::{cut, has_minimum, least_whole, params, range};
#[cfg(feature = "cube")]
pub(crate) use parts::LEVELS;

use crate::arith::lanes::Lanes;
use crate::arith::number::Narrow;
use crate::arith::pack;
use crate::format::{Gguf, PackedRows};

/// Dequantizes rows until `out` is full.
#[inline(always)]
pub(crate) fn unpack<L: Lanes, T: Narrow>(
    lanes: L,
    kind: Gguf,
    part: PackedRows<'_>,
    out: &mut [T],
) {
    let cols = part.shape[1];
    if let Err(error) = kind.check_columns(cols) {
        panic!("{error}");
    }
    let first = part.first_row * kind.row_bytes(cols);
    let bytes = pack::as_bytes(&part.words[first / pack::CODES8..]);
    let bytes = &bytes[first % pack::CODES8..];
    match kind {
        Gguf::Q4_0 => blocks(lanes, bytes, out, legacy::q4_0),
        Gguf::Q4_1 => blocks(lanes, bytes, out, legacy::q4_1),
        Gguf::Q5_0 => blocks(lanes, bytes, out, legacy::q5_0),
        Gguf::Q5_1 => blocks(lanes, bytes, out, legacy::q5_1),
        Gguf::Q8_0 => blocks(lanes, bytes, out, legacy::q8_0),
        Gguf::Q1_0 => blocks(lanes, bytes, out, legacy::q1_0),
        Gguf::Q2_0 => blocks(lanes, bytes, out, legacy::q2_0),
        Gguf::Q2K => blocks(lanes, bytes, out, k::q2),
        Gguf::Q3K => blocks(lanes, bytes, out, k::q3),
        Gguf::Q4K => blocks(lanes, bytes, out, k::q4),
        Gguf::Q5K => blocks(lanes, bytes, out, k::q5),
        Gguf::Q6K => blocks(lanes, bytes, out, k::q6),
        Gguf::Iq2Xxs => blocks(lanes, bytes, out, lists::iq2_xxs),
        Gguf::Iq2Xs => blocks(lanes, bytes, out, lists::iq2_xs),
        Gguf::Iq2S => blocks(lanes, bytes, out, lists::iq2_s),
        Gguf::Iq3Xxs => blocks(lanes, bytes, out, lists::iq3_xxs),
        Gguf::Iq3S => blocks(lanes, bytes, out, lists::iq3_s),
        Gguf::Iq1S => blocks(lanes, bytes, out, lists::iq1_s),
        Gguf::Iq1M => blocks(lanes, bytes, out, lists::iq1_m),
        Gguf::Iq4Nl => blocks(lanes, bytes, out, legacy::iq4_nl),
        Gguf::Iq4Xs => blocks(lanes, bytes, out, k::iq4_xs),
        Gguf::Tq1_0 => blocks(lanes, bytes, out, k::tq1_0),
        Gguf::Tq2_0 => blocks(lanes, bytes, out, k::tq2_0),
        Gguf::Mxfp4 => blocks(lanes, bytes, out, floats::mxfp4),
        Gguf::Nvfp4 => blocks(lanes, bytes, out, floats::nvfp4),
    }
}

/// The values of as many blocks as `out` takes.
#[inline(always)]
fn blocks<L: Lanes, T: Narrow, const BYTES: usize, const BLOCK: usize>(
    lanes: L,
    bytes: &[u8],
    out: &mut [T],
    values: impl Fn(&[u8; BYTES], &mut [f32; BLOCK]),
) {
    let mut scratch = [0.0; BLOCK];
    let out = out.as_chunks_mut::<BLOCK>().0;
    for (bytes, out) in bytes.as_chunks::<BYTES>().0.iter().zip(out) {
        T::through(lanes, out, &mut scratch, |out| {
            let out = out.as_chunks_mut().0;
            values(bytes, &mut out[0]);
        });
    }
}
