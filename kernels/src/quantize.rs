//! Choosing codes on a device: the bits that the host's packers choose.
//!
//! Source weights come as their own bytes in words, little-endian, the last word padded.

use cubecl::client::Client;

use crate::affine;
use crate::blocks;
use crate::float::FloatBits;
use crate::fp4::Fp4;
use crate::int8;
use crate::launch::Buffer;
use crate::nf4::Nf4;
use crate::packing::Packing;

/// Words and scales of a tile of whole rows, `shape` `[rows, i]`, whose source is `bytes`.
///
/// Tiles are those that the host's [`Packer`](crate::packer::Packer) takes: the words and scales of one begin where
/// those of the one before end. Scales are what the format stores, but for nested formats, whose scales are plain
/// here (`f32`, the largest magnitude of each block).
///
/// # Panics
///
/// When `bytes` is not as long as the shape says, or the tile has 2^32 weights or more.
pub fn quantize(
    client: &Client,
    packing: Packing,
    shape: [usize; 2],
    source: FloatBits,
    bytes: &Buffer,
) -> (Buffer, Buffer) {
    let n = shape[0] * shape[1];
    assert_eq!(
        bytes.len(),
        source.words(n),
        "words of {shape:?} {source:?}"
    );
    assert!(u32::try_from(n).is_ok(), "{n} weights in one tile");
    match packing {
        Packing::Nf4(of) => blocks::pack_cube::quantize::<Nf4>(client, of.block, n, source, bytes),
        Packing::Fp4(of) => blocks::pack_cube::quantize::<Fp4>(client, of.block, n, source, bytes),
        Packing::Fp8 { .. } => panic!("FP8 is not chosen on devices yet"),
        Packing::Mlx { bits, group } => {
            affine::pack_cube::quantize(client, bits, group, shape, source, bytes)
        }
        Packing::Int8 => int8::pack_cube::quantize(client, shape, source, bytes),
    }
}
