//! Weights that a device gives back, against those that the host gives back.

use cubecl::client::Client;
use cubecl::features::TypeUsage;
use cubecl::prelude::*;
use firebox_kernels::arith::float::DType;
use firebox_kernels::arith::launch::Buffer;
use firebox_kernels::arith::pack;
use firebox_kernels::device::DeviceWeight;
use firebox_kernels::format::{
    Affine, Along, Blocks, Format, Fp8Kind, Gguf, Half, Micro, Offset, Packed, Tile,
};
use firebox_kernels::formats::fp8::Recipe;
use firebox_kernels::formats::hqq::{Axis, Group, Hqq, Levels};
use firebox_kernels::formats::wna16::{ScaleGroup, Wna16};
use firebox_kernels::formats::{affine, bits4, fp8, gguf, int8, micro};
use firebox_kernels::packer::Packer;
use half::f16;

use crate::common::{Random, assert_bits, fed, rounded};

crate::targets::on_devices!(
    dequantize_is_the_hosts,
    any_words_give_what_they_give_on_the_host,
    rows_are_the_hosts,
);

/// Shapes that fill neither words nor blocks, nor what units read together.
pub(crate) const SHAPES: [[usize; 2]; 9] = [
    [1, 1],
    [3, 33],
    [50, 65],
    [33, 96],
    [70, 7],
    [16, 257],
    [12, 24],
    [40, 136],
    [64, 4096],
];

/// Every micro format.
pub(crate) const MICRO: [Micro; 4] = [
    Micro::Mxfp4,
    Micro::Mxfp8,
    Micro::Nvfp4 { global: false },
    Micro::Nvfp4 { global: true },
];

/// A weight of this shape in every format.
pub(crate) fn every_format(shape: [usize; 2], random: &mut Random) -> Vec<Packed> {
    let source = DType::Bf16;
    let bytes = random.weights(shape[0] * shape[1], source);
    let mut packers: Vec<Box<dyn Packer>> = Vec::new();
    for (block, nested) in [
        (32, false),
        (64, false),
        (4096, false),
        (64, true),
        (32, true),
    ] {
        packers.push(bits4::nf4(shape, source, block, nested).unwrap());
        packers.push(bits4::fp4(shape, source, block, nested).unwrap());
    }
    for kind in [Fp8Kind::E4m3, Fp8Kind::E5m2] {
        let block = |rows, cols| Tile::Block { rows, cols };
        for tile in [
            Tile::Tensor,
            Tile::Row,
            block(8, 24),
            block(128, 128),
            block(3, 5),
        ] {
            let recipe = Recipe::FineGrained { ue8m0: false };
            packers.push(fp8::packer(shape, source, kind, tile, recipe).unwrap());
        }
    }
    packers.push(int8::packer(shape, source).unwrap());
    for micro in MICRO {
        packers.extend(micro::packer(shape, source, micro));
    }
    for kind in Gguf::CHOSEN {
        packers.extend(gguf::packer(shape, source, kind));
    }
    for bits in [2, 3, 4, 5, 6, 8] {
        for group in [32, 64] {
            packers.extend(affine::packer(shape, source, bits, group));
        }
    }
    // A scale a row, one for all, and one for each column.
    for (bits, scale) in [(3, ScaleGroup::Channel), (8, ScaleGroup::Tensor)] {
        let method = Wna16 {
            bits,
            scale,
            symmetric: false,
        };
        packers.push(method.packer(shape, source).unwrap());
    }
    for (bits, params) in [(1, DType::F16), (6, DType::F32)] {
        let method = Hqq {
            levels: Levels::Bits(bits),
            group: Group::Line,
            axis: Axis::First,
            optimize: false,
            round_zero: false,
            params,
        };
        packers.push(method.packer(shape, source).unwrap());
    }
    let row_bytes = shape[1] * source.size();
    let packed = packers.into_iter();
    let packed = packed.map(|packer| fed(packer, &bytes, row_bytes, 0));
    let halves = [Half::F16, Half::Bf16].map(|half| {
        let bytes = random.weights(shape[0] * shape[1], half.dtype());
        let words = pack::from_bytes(&bytes);
        Packed::new(Format::Half(half), shape, words, Vec::new()).unwrap()
    });
    packed
        .chain(halves)
        .chain([ordered(shape, random)])
        .collect()
}

/// A weight whose columns are in groups of any order.
fn ordered(shape: [usize; 2], random: &mut Random) -> Packed {
    let along = Along::Ordered;
    let affine = Affine::new(4, 32, along, Offset::Zero, DType::F16).unwrap();
    let format = Format::Affine(affine);
    let words = (0..format.words_len(shape)).map(|_| random.next() as u32);
    let words = words.collect();
    let scales = affine_scales(affine, shape, random);
    Packed::new(format, shape, words, scales).unwrap()
}

/// Scales and zeros that are numbers, and a list of columns where there is one.
fn affine_scales(affine: Affine, shape: [usize; 2], random: &mut Random) -> Vec<u32> {
    let groups = affine.groups(shape);
    let mut params = |about: f32| -> Vec<u32> {
        let params = (0..groups).map(|_| affine.params.to_bits(about + random.weight()));
        params.collect()
    };
    let (by, offsets) = (params(0.0), params(3.0));
    let mut scales = affine.join(&by, &offsets);
    if affine.along == Along::Ordered {
        let groups = shape[1].div_ceil(affine.group) as u64;
        scales.extend((0..shape[1]).map(|_| (random.next() % groups) as u32));
    }
    scales
}

/// The weight on a device.
pub(crate) fn upload(client: &Client, packed: &Packed) -> DeviceWeight {
    DeviceWeight {
        format: packed.format,
        shape: packed.shape,
        words: Buffer::upload(client, &packed.words),
        scales: Buffer::upload(client, &packed.scales),
    }
}

/// A buffer of `f32`, read back.
pub(crate) fn floats(client: &Client, buffer: Buffer) -> Vec<f32> {
    let len = buffer.len();
    let bytes = client.read_one(buffer.into_handle()).unwrap();
    bytemuck::pod_collect_to_vec::<u8, f32>(&bytes)[..len].to_vec()
}

/// Whole weights, their middles, last rows and no rows.
fn dequantize_is_the_hosts(client: &Client) {
    let mut random = Random(5);
    for shape in SHAPES {
        for packed in every_format(shape, &mut random) {
            let weight = upload(client, &packed);
            let [o, i] = shape;
            let expected = packed.dequantize();
            for rows in [0..o, o / 3..o - o / 3, o - 1..o, 1..1] {
                let found = weight.dequantize(client, rows.clone(), DType::F32);
                let what = format!("{} {shape:?} {rows:?}", packed.format);
                assert_bits(
                    &floats(client, found),
                    &expected[rows.start * i..rows.end * i],
                    &what,
                );
            }
        }
    }
}

/// Scales that no packer stores as well as those it does.
const SCALES: [f32; 8] = [
    1.0,
    -0.37,
    0.0,
    f32::NAN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    3.1e-3,
    2.9e38,
];

/// Any words under any scales: every code, NaN, infinities and overflow, both forms of offset in every
/// type. Only what is below 2^-126 may be 0.
fn any_words_give_what_they_give_on_the_host(client: &Client) {
    let mut random = Random(23);
    let mut formats = vec![
        Format::Int8,
        Format::Half(Half::F16),
        Format::Half(Half::Bf16),
    ];
    for nested in [false, true] {
        formats.push(Format::Nf4(Blocks { block: 32, nested }));
        formats.push(Format::Fp4(Blocks { block: 64, nested }));
    }
    for kind in [Fp8Kind::E4m3, Fp8Kind::E5m2] {
        formats.push(Format::Fp8(kind, Tile::Row));
        formats.push(Format::Fp8(kind, Tile::Block { rows: 3, cols: 32 }));
    }
    for (bits, group, form, params) in [
        (2, 32, Offset::Zero, DType::F32),
        (3, 64, Offset::Bias, DType::F16),
        (3, 32, Offset::Zero, DType::Bf16),
        (4, 32, Offset::Zero, DType::F16),
        (5, 32, Offset::Bias, DType::F32),
        (6, 32, Offset::Zero, DType::F32),
        (8, 32, Offset::Zero, DType::Bf16),
        (8, 64, Offset::Bias, DType::F16),
    ] {
        formats.push(Format::Affine(
            Affine::new(bits, group, Along::Flat, form, params).unwrap(),
        ));
    }
    formats.extend(MICRO.map(Format::Micro));
    formats.extend(Gguf::CHOSEN.map(Format::Gguf));
    for (bits, group, along, params) in [
        (1, 64, Along::Flat, DType::F16),
        (3, 27, Along::Flat, DType::F32),
        (5, 9, Along::Flat, DType::Bf16),
        (2, 63, Along::Flat, DType::F16),
        (4, 64, Along::Strided, DType::F16),
        (6, 9, Along::Strided, DType::F32),
        (8, 315, Along::Strided, DType::Bf16),
        (3, 7, Along::Ordered, DType::F32),
        (4, 32, Along::Ordered, DType::Bf16),
    ] {
        let affine = Affine::new(bits, group, along, Offset::Zero, params);
        formats.push(Format::Affine(affine.unwrap()));
    }
    let half = f16::supported_uses(client).contains(TypeUsage::Buffer);
    for format in formats {
        for shape in [[9, 192], [7, 45], [5, 768]] {
            if format.validate_shape(shape).is_err() {
                continue;
            }
            let words = (0..format.words_len(shape)).map(|_| random.next() as u32);
            let words = words.collect();
            let scales = (0..format.scales_len(shape)).map(|k| match format {
                // Codes of scales first.
                Format::Nf4(of) | Format::Fp4(of)
                    if of.nested && k < of.count(shape[0] * shape[1]).div_ceil(4) =>
                {
                    random.next() as u32
                }
                Format::Nf4(of) | Format::Fp4(of) if of.nested => (0.1 + k as f32).to_bits(),
                Format::Affine(of) if of.params != DType::F32 => random.next() as u32,
                Format::Affine(_) => random.weight().to_bits(),
                Format::Micro(of) if of.is_global() && k + 1 == format.scales_len(shape) => {
                    0.37f32.to_bits()
                }
                // NaN of both kinds of scale, the smallest ones and -0.
                Format::Micro(_) if k == 0 => 0xff7f_0180,
                // No byte 0, which is subnormal as a power of two.
                Format::Micro(_) => random.next() as u32 | 0x0101_0101,
                _ => SCALES[random.next() as usize % SCALES.len()].to_bits(),
            });
            let scales = scales.collect();
            let scales = match format {
                Format::Affine(of) if of.along == Along::Ordered => {
                    affine_scales(of, shape, &mut random)
                }
                _ => scales,
            };
            let packed = Packed::new(format, shape, words, scales).unwrap();
            let weight = upload(client, &packed);
            let expected = packed.dequantize();
            let found = weight.dequantize(client, 0..shape[0], DType::F32);
            let mut found = floats(client, found);
            for (found, expected) in found.iter_mut().zip(&expected) {
                if expected.is_subnormal() && *found == 0.0 {
                    *found = *expected;
                }
            }
            let what = format!("{format} {shape:?}");
            assert_bits(&found, &expected, &what);
            if half {
                let out = weight.dequantize(client, 0..shape[0], DType::F16);
                let bytes = client.read_one(out.into_handle()).unwrap();
                let mut found = vec![0.0; expected.len()];
                DType::F16.widen(&bytes[..2 * expected.len()], &mut found);
                let expected = rounded(&expected, DType::F16);
                for (found, expected) in found.iter().zip(&expected) {
                    let off = (found - expected).abs() / expected.abs();
                    let same = found == expected || found.is_nan() && expected.is_nan();
                    assert!(same || off <= 1e-3, "{what}: {found} {expected}");
                }
            }
        }
    }
}

/// Ids in every type, in no order, repeated, negative and beyond the last row.
fn rows_are_the_hosts(client: &Client) {
    let mut random = Random(2);
    for shape @ [o, i] in SHAPES {
        for packed in every_format(shape, &mut random) {
            let weight = upload(client, &packed);
            let expected = packed.dequantize();
            let ids = [o as i64 - 1, 0, -1, o as i64 / 2, o as i64, 0, 1 << 32];
            let expected: Vec<f32> = ids
                .iter()
                .flat_map(|id| match usize::try_from(*id) {
                    Ok(id) if id < o => expected[id * i..][..i].to_vec(),
                    _ => vec![f32::NAN; i],
                })
                .collect();
            let wide = ids.map(|id| id as u64);
            let wide = client.create_from_slice(bytemuck::cast_slice(&wide));
            // SAFETY: seven ids of eight bytes.
            let wide = unsafe { Buffer::new(wide, ids.len()) };
            let found = weight.rows(client, &wide, i64::elem_type_native(), DType::F32);
            let what = format!("{} {shape:?}", packed.format);
            assert_bits(&floats(client, found), &expected, &what);

            let narrow = Buffer::upload(
                client,
                &ids[..6].iter().map(|id| *id as u32).collect::<Vec<_>>(),
            );
            for id_type in [i32::elem_type_native(), u32::elem_type_native()] {
                let found = weight.rows(client, &narrow, id_type, DType::F32);
                assert_bits(&floats(client, found), &expected[..6 * i], &what);
            }
        }
    }
}
