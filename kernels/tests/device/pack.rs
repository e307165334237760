//! Codes that a device chooses are those of the host's packers, which golden files tie to the Python libraries.

use cubecl::client::Client;
use firebox_kernels::arith::float::DType;
use firebox_kernels::arith::launch::Buffer;
use firebox_kernels::format::{Blocks, Fp8Kind, Tile};
use firebox_kernels::formats::fp8::Recipe;
use firebox_kernels::formats::nested;
use firebox_kernels::packing::Packing;
use firebox_kernels::quantize::{absmax, nest, quantize};

use crate::common::{Random, fed};
use crate::targets::on_devices;

on_devices!(
    four_bits,
    eight_bits,
    largest,
    nested_scales,
    nested_weights
);

const SOURCES: [DType; 3] = [DType::F32, DType::F16, DType::Bf16];

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
    source: DType,
    bytes: &[u8],
    tiles: usize,
) -> (Vec<u32>, Vec<u32>) {
    let [o, i] = shape;
    let together = packing.packer(shape, source).unwrap().tile_rows();
    let step = if tiles == 0 { o } else { tiles * together };
    let one_scale = matches!(
        packing,
        Packing::Fp8 {
            tile: Tile::Tensor,
            ..
        }
    );
    let amax = one_scale.then(|| absmax(client, source, o * i, &upload(client, bytes)));
    let (mut words, mut scales) = (Vec::new(), Vec::new());
    for bytes in bytes.chunks(step * i * source.size()) {
        let tile = [bytes.len() / source.size() / i, i];
        let bytes = upload(client, bytes);
        let (w, s) = quantize(client, packing, tile, source, &bytes, amax.as_ref());
        words.extend(read(client, w));
        if one_scale {
            scales.clear();
        }
        scales.extend(read(client, s));
    }
    (words, scales)
}

/// The device against the host, the weight as one tile and as many.
#[track_caller]
fn check(
    client: &Client,
    packing: Packing,
    shape: [usize; 2],
    source: DType,
    bytes: &[u8],
    what: &str,
) {
    let packer = packing.packer(shape, source).unwrap();
    let host = fed(packer, bytes, shape[1] * source.size(), 0);
    for tiles in [0, 3] {
        let (words, scales) = packed(client, packing, shape, source, bytes, tiles);
        let what = format!("{packing:?} {source:?} {shape:?} {what}");
        assert_words(&scales, &host.scales, &format!("scales, {what}"));
        assert_words(&words, &host.words, &format!("words, {what}"));
    }
}

/// Weights at which something happens: every value that is hard on its own, and blocks that are.
fn special(n: usize, source: DType, seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let hard = [
        0.0,
        -0.0,
        f32::NAN,
        -f32::NAN,
        f32::INFINITY,
        -f32::INFINITY,
        f32::MAX,
        -f32::MAX,
        f32::MIN_POSITIVE,
        -f32::MIN_POSITIVE,
        f32::from_bits(1),
        -f32::from_bits(1),
        f32::from_bits(0x40_0000),
        1e-40,
        -1e-39,
        1e-38,
        9.99e-39,
        65504.0,
        -65520.0,
        6e-8,
        -3e-8,
        6.1e-5,
        1e30,
        -1e30,
        448.0,
        464.0,
        57344.0,
        61440.0,
        1.0,
        -1.0,
        8.507059e37,
        1.7014118e38,
    ];
    // Scales of what a run of 64 weights is made of.
    let sizes = [
        1.0, 1e-30, 1e-37, 1e-39, 1e-44, 1e3, 1e30, 1e38, 3e38, 0.0, 6e4, 1e-4, 1e-7,
    ];
    let mut bytes = Vec::new();
    for k in 0..n {
        let block = k / 64;
        let mut value = random.weight() * sizes[block % sizes.len()];
        // Some stretches hold nothing hard, some one, some little else.
        let chance = [0, 0, 64, 4][block / sizes.len() % 4];
        if chance != 0 && random.next().is_multiple_of(chance) {
            value = hard[(random.next() % hard.len() as u64) as usize];
        }
        match source {
            DType::F32 => bytes.extend(value.to_le_bytes()),
            DType::F16 => bytes.extend(half::f16::from_f32(value).to_le_bytes()),
            DType::Bf16 => bytes.extend(half::bf16::from_f32(value).to_le_bytes()),
        }
    }
    bytes
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
                    check(client, packing, shape, source, &bytes, "weights");
                }
                for shape in [[37, 257], [128, 128]] {
                    let bytes = special(shape[0] * shape[1], source, random.next());
                    check(client, packing, shape, source, &bytes, "special");
                }
            }
        }
    }
}

fn eight_bits(client: &Client) {
    let mut random = Random(11);
    let block = |rows, cols| Tile::Block { rows, cols };
    let tiles = [
        Tile::Tensor,
        Tile::Row,
        block(128, 128),
        block(32, 16),
        block(3, 5),
        block(2, 500),
    ];
    let recipes = [
        Recipe::CompressedTensors,
        Recipe::FineGrained { ue8m0: false },
        Recipe::FineGrained { ue8m0: true },
        Recipe::Fixed(0.0123),
        Recipe::Fixed(1e-40),
        Recipe::Fixed(3e38),
    ];
    for kind in [Fp8Kind::E4m3, Fp8Kind::E5m2] {
        for recipe in recipes {
            for source in SOURCES {
                let far = matches!(recipe, Recipe::Fixed(scale) if !(1e-30..1e30).contains(&scale));
                for tile in tiles {
                    // Where a weight is cut does not matter to what a fixed scale does.
                    if far && tile != Tile::Row {
                        continue;
                    }
                    let packing = Packing::Fp8 { kind, tile, recipe };
                    for shape in [[1, 1], [3, 33], [16, 257], [6, 2048]] {
                        let bytes = random.weights(shape[0] * shape[1], source);
                        check(client, packing, shape, source, &bytes, "weights");
                    }
                    for shape in [[11, 257], [16, 512]] {
                        let bytes = special(shape[0] * shape[1], source, random.next());
                        check(client, packing, shape, source, &bytes, "special");
                    }
                }
            }
        }
    }
}

fn largest(client: &Client) {
    for source in SOURCES {
        for n in [0, 1, 7, 8, 9, 64, 65, 100_000, 5_000_001] {
            let mut bytes = Random(n as u64 + 1).weights(n, source);
            for put in [
                None,
                Some(-70000.0),
                Some(f32::NEG_INFINITY),
                Some(-f32::NAN),
            ] {
                if let Some(value) = put
                    && n > 0
                {
                    // The last one: what a kernel would leave out.
                    let value = match source {
                        DType::F32 => value.to_le_bytes().to_vec(),
                        DType::F16 => half::f16::from_f32(value).to_le_bytes().to_vec(),
                        DType::Bf16 => half::bf16::from_f32(value).to_le_bytes().to_vec(),
                    };
                    let at = bytes.len() - value.len();
                    bytes[at..].copy_from_slice(&value);
                }
                let mut values = vec![0.0; n];
                source.widen(&bytes, &mut values);
                let expected = values
                    .iter()
                    .map(|value| value.abs().to_bits())
                    .max()
                    .unwrap_or(0);
                let found = read(client, absmax(client, source, n, &upload(client, &bytes)));
                assert_words(&found, &[expected], &format!("{n} {source:?} {put:?}"));
            }
        }
    }
}

/// From weights to nested scales, in tiles and with buffers that stay on the device.
fn nested_weights(client: &Client) {
    let mut random = Random(29);
    let (shape, source) = ([700, 129], DType::Bf16);
    let bytes = random.weights(shape[0] * shape[1], source);
    for block in [32, 64, 4096] {
        let blocks = Blocks {
            block,
            nested: true,
        };
        for packing in [Packing::Nf4(blocks), Packing::Fp4(blocks)] {
            let packer = packing.packer(shape, source).unwrap();
            let host = fed(packer, &bytes, shape[1] * source.size(), 0);
            let (words, plain) = packed(client, packing, shape, source, &bytes, 1);
            let scales = read(client, nest(client, &Buffer::upload(client, &plain)));
            assert_words(&scales, &host.scales, &format!("scales, {packing:?}"));
            assert_words(&words, &host.words, &format!("words, {packing:?}"));
        }
    }
}

/// Scales of every count around which the order of the sum changes, up to a million.
fn nested_scales(client: &Client) {
    let mut random = Random(23);
    let few = (1..=70).chain([127, 128, 129, 255, 256, 257, 511, 512, 513, 1000]);
    let many = [
        8191, 8192, 16_384, 16_415, 131_071, 131_072, 140_001, 524_288, 1_000_003, 1_200_000,
    ];
    for g in few.chain(many) {
        let scales: Vec<f32> = (0..g).map(|_| random.weight().abs() * 0.1 + 0.02).collect();
        check_nested(client, &scales, "scales");
    }
    let hard = [
        0.0,
        f32::NAN,
        f32::INFINITY,
        f32::MAX,
        1e-38,
        1e-45,
        3e38,
        1e-20,
        1.0,
    ];
    for g in [3, 40, 300, 5000] {
        for value in hard {
            check_nested(client, &vec![value; g], &format!("all {value:e}"));
            let mut scales: Vec<f32> = (0..g).map(|_| random.weight().abs()).collect();
            scales[g / 2] = value;
            check_nested(client, &scales, &format!("one {value:e}"));
        }
        for size in [1e-30, 1e-37, 1e-38, 1e-40, 1e38] {
            let scales: Vec<f32> = (0..g).map(|_| random.weight().abs() * size).collect();
            check_nested(client, &scales, &format!("about {size:e}"));
        }
    }
}

#[track_caller]
fn check_nested(client: &Client, scales: &[f32], what: &str) {
    let g = scales.len();
    let bits: Vec<u32> = scales.iter().map(|scale| scale.to_bits()).collect();
    let expected = nested::quantize(scales);
    let found = read(client, nest(client, &Buffer::upload(client, &bits)));
    assert_eq!(found.len(), expected.len(), "length of {g} {what}");
    for (k, (found, expected)) in found.iter().zip(&expected).enumerate() {
        // Which NaN a sum is depends on the order in which a compiler writes its operands.
        let float = k >= g.div_ceil(4);
        let nan = float && f32::from_bits(*found).is_nan() && f32::from_bits(*expected).is_nan();
        assert!(
            found == expected || nan,
            "{g} {what}: word {k}, {found:#010x} against {expected:#010x}"
        );
    }
}
