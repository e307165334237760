//! Codes that a device chooses are those of the host's packers, which golden files tie to the Python libraries.

use cubecl::client::Client;
use firebox_kernels::float::FloatBits;
use firebox_kernels::format::Blocks;
use firebox_kernels::launch::Buffer;
use firebox_kernels::packing::Packing;
use firebox_kernels::quantize::quantize;

use crate::common::{Random, fed};
use crate::targets::on_devices;

on_devices!(four_bits);

const SOURCES: [FloatBits; 3] = [FloatBits::F32, FloatBits::F16, FloatBits::Bf16];

const SHAPES: [[usize; 2]; 6] = [[1, 1], [3, 33], [7, 65], [16, 257], [3, 4096], [2, 12_347]];

/// Words of a tile on the device.
pub(crate) fn upload(client: &Client, bytes: &[u8]) -> Buffer {
    let mut padded = bytes.to_vec();
    padded.resize(bytes.len().next_multiple_of(4), 0);
    let words: Vec<u32> = padded
        .as_chunks::<4>()
        .0
        .iter()
        .map(|word| u32::from_le_bytes(*word))
        .collect();
    Buffer::upload(client, &words)
}

pub(crate) fn read(client: &Client, buffer: Buffer) -> Vec<u32> {
    let len = buffer.len();
    let bytes = client.read_one(buffer.into_handle()).unwrap();
    let words: &[u32] = bytemuck::cast_slice(&bytes);
    words[..len].to_vec()
}

#[track_caller]
fn assert_words(found: &[u32], expected: &[u32], what: &str) {
    assert_eq!(found.len(), expected.len(), "length of {what}");
    for (k, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(
            found, expected,
            "{what}: word {k}, {found:#010x} against {expected:#010x}"
        );
    }
}

/// Packs on the device in tiles of `tiles * tile_rows` rows, 0 for all at once.
fn packed(
    client: &Client,
    packing: Packing,
    shape: [usize; 2],
    source: FloatBits,
    bytes: &[u8],
    tiles: usize,
) -> (Vec<u32>, Vec<u32>) {
    let [o, i] = shape;
    let together = packing.packer(shape, source).unwrap().tile_rows();
    let step = if tiles == 0 { o } else { tiles * together };
    let (mut words, mut scales) = (Vec::new(), Vec::new());
    for bytes in bytes.chunks(step * i * source.size()) {
        let tile = [bytes.len() / source.size() / i, i];
        let (w, s) = quantize(client, packing, tile, source, &upload(client, bytes));
        words.extend(read(client, w));
        scales.extend(read(client, s));
    }
    (words, scales)
}

fn four_bits(client: &Client) {
    let mut random = Random(7);
    for block in [32, 64, 128, 256, 512, 1024, 2048, 4096] {
        let blocks = Blocks {
            block,
            nested: false,
        };
        for packing in [Packing::Nf4(blocks), Packing::Fp4(blocks)] {
            for source in SOURCES {
                for shape in SHAPES {
                    let bytes = random.weights(shape[0] * shape[1], source);
                    let what = format!("{packing:?} {source:?} {shape:?}");
                    let host = fed(
                        packing.packer(shape, source).unwrap(),
                        &bytes,
                        shape[1] * source.size(),
                        0,
                    );
                    for tiles in [0, 1] {
                        let (words, scales) = packed(client, packing, shape, source, &bytes, tiles);
                        assert_words(&scales, &host.scales, &format!("scales, {what}"));
                        assert_words(&words, &host.words, &format!("words, {what}"));
                    }
                }
            }
        }
    }
}
