//! Choosing codes on a device: the bits that the host's packers choose.
//!
//! Source weights come as their own bytes in words, little-endian, the last word padded.

use cubecl::client::Client;

use crate::arith::float::{self, DType};
use crate::arith::launch::Buffer;
use crate::formats::affine;
use crate::formats::bits4;
use crate::formats::bits4::levels::{Fp4, Nf4};
use crate::formats::fp8::{self, pack_cube::Fp8Plan};
use crate::formats::int8;
use crate::formats::nested;
use crate::packing::Packing;

/// Words and scales of a tile of whole rows, `shape` `[rows, i]`, whose source is `bytes`.
///
/// Tiles are those that the host's [`Packer`](crate::packer::Packer) takes: the words and scales of one begin where
/// those of the one before end. Scales are those that the format stores, except for nested formats, whose scales are
/// plain here (`f32`, the largest magnitude of each block).
///
/// FP8 with one scale for the tensor, where that is not fixed, needs `amax`: one word, the bits of the largest magnitude
/// of the whole weight. Every tile then gives that scale.
///
/// # Panics
///
/// When the packing has no device half ([`Packing::on_device`]), `amax` is missing there, `bytes` is not as long as the shape says, or the tile has 2^32 weights or more.
pub fn quantize(
    client: &Client,
    packing: Packing,
    shape: [usize; 2],
    source: DType,
    bytes: &Buffer,
    amax: Option<&Buffer>,
) -> (Buffer, Buffer) {
    let n = shape[0] * shape[1];
    assert_eq!(
        bytes.len(),
        source.words(n),
        "words of {shape:?} {source:?}"
    );
    assert!(u32::try_from(n).is_ok(), "{n} weights in one tile");
    match packing {
        Packing::Nf4(of) => bits4::pack_cube::quantize::<Nf4>(client, of.block, n, source, bytes),
        Packing::Fp4(of) => bits4::pack_cube::quantize::<Fp4>(client, of.block, n, source, bytes),
        Packing::Fp8 { kind, tile, recipe } => {
            let plan = Fp8Plan { kind, tile, recipe };
            fp8::pack_cube::quantize(client, plan, shape, source, bytes, amax)
        }
        Packing::Mlx { bits, group } => {
            affine::pack_cube::quantize(client, bits, group, shape, source, bytes)
        }
        Packing::Int8 => int8::pack_cube::quantize(client, shape, source, bytes),
        Packing::Hqq(_) | Packing::Wna16(_) | Packing::Micro(_) | Packing::Gguf(_) => {
            panic!("{packing:?} is packed on the host")
        }
    }
}

/// One word: the bits of the largest magnitude of `n` weights, as the host finds it. NaN is larger than all.
///
/// # Panics
///
/// When `bytes` is not as long as `n` weights are, or they are 2^32 or more.
pub fn absmax(client: &Client, source: DType, n: usize, bytes: &Buffer) -> Buffer {
    assert_eq!(bytes.len(), source.words(n), "words of {n} {source:?}");
    assert!(u32::try_from(n).is_ok(), "{n} weights in one tile");
    float::pack_cube::absmax(client, source, n, bytes)
}

/// Nested scales from the plain ones of a whole weight, as [`quantize`] gives them tile by tile: the words that the
/// format stores.
pub fn nest(client: &Client, absmax: &Buffer) -> Buffer {
    nested::pack_cube::nest(client, absmax)
}
