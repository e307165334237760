//! Packed weights on devices against the host.
#![cfg(feature = "cube")]

mod common;

use common::{Random, assert_bits, fed, rounded};
use cubecl::features::TypeUsage;
use cubecl::prelude::*;
use cubecl::{client::Client, device::WgpuDeviceKind};
use firebox_kernels::device::Weight;
use firebox_kernels::float::FloatBits;
use firebox_kernels::format::{Affine, Blocks, Format, Fp8Kind, Offset, Packed, Tile};
use firebox_kernels::fp8::Recipe;
use firebox_kernels::launch::Buffer;
use firebox_kernels::packer::Packer;
use firebox_kernels::{affine, compare, fp4, fp8, int8, nf4};
use half::f16;

const SHAPES: [[usize; 2]; 9] = [
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

/// A weight of this shape in every format.
fn every_format(shape: [usize; 2], random: &mut Random) -> Vec<Packed> {
    let source = FloatBits::Bf16;
    let bytes = random.weights(shape[0] * shape[1], source);
    let mut packers: Vec<Box<dyn Packer>> = Vec::new();
    for (block, nested) in [
        (32, false),
        (64, false),
        (4096, false),
        (64, true),
        (32, true),
    ] {
        packers.push(nf4::packer(shape, source, block, nested).unwrap());
        packers.push(fp4::packer(shape, source, block, nested).unwrap());
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
    for bits in [2, 3, 4, 5, 6, 8] {
        for group in [32, 64] {
            packers.extend(affine::packer(shape, source, bits, group));
        }
    }
    let row_bytes = shape[1] * source.size();
    let packed = packers.into_iter();
    packed
        .map(|packer| fed(packer, &bytes, row_bytes, 0))
        .collect()
}

fn upload(client: &Client, packed: &Packed) -> Weight {
    Weight {
        format: packed.format,
        shape: packed.shape,
        words: Buffer::upload(client, &packed.words),
        scales: Buffer::upload(client, &packed.scales),
    }
}

fn floats(client: &Client, buffer: Buffer) -> Vec<f32> {
    let len = buffer.len();
    let bytes = client.read_one(buffer.into_handle()).unwrap();
    bytemuck::pod_collect_to_vec::<u8, f32>(&bytes)[..len].to_vec()
}

fn dequantize_is_the_hosts(client: &Client) {
    let mut random = Random(5);
    for shape in SHAPES {
        for packed in every_format(shape, &mut random) {
            let weight = upload(client, &packed);
            let [o, i] = shape;
            let expected = packed.dequantize();
            for rows in [0..o, o / 3..o - o / 3, o - 1..o, 1..1] {
                let found = weight.dequantize(client, rows.clone(), FloatBits::F32);
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
    let mut formats = vec![Format::Int8];
    for nested in [false, true] {
        formats.push(Format::Nf4(Blocks { block: 32, nested }));
        formats.push(Format::Fp4(Blocks { block: 64, nested }));
    }
    for kind in [Fp8Kind::E4m3, Fp8Kind::E5m2] {
        formats.push(Format::Fp8(kind, Tile::Row));
        formats.push(Format::Fp8(kind, Tile::Block { rows: 3, cols: 32 }));
    }
    for (bits, group, form, params) in [
        (2, 32, Offset::Zero, FloatBits::F32),
        (3, 64, Offset::Bias, FloatBits::F16),
        (3, 32, Offset::Zero, FloatBits::Bf16),
        (4, 32, Offset::Zero, FloatBits::F16),
        (5, 32, Offset::Bias, FloatBits::F32),
        (6, 32, Offset::Zero, FloatBits::F32),
        (8, 32, Offset::Zero, FloatBits::Bf16),
        (8, 64, Offset::Bias, FloatBits::F16),
    ] {
        formats.push(Format::Affine(
            Affine::new(bits, group, form, params).unwrap(),
        ));
    }
    let half = f16::supported_uses(client).contains(TypeUsage::Buffer);
    for format in formats {
        for shape in [[9, 192], [7, 45]] {
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
                Format::Affine(of) if of.params != FloatBits::F32 => random.next() as u32,
                Format::Affine(_) => random.weight().to_bits(),
                _ => SCALES[random.next() as usize % SCALES.len()].to_bits(),
            });
            let packed = Packed::new(format, shape, words, scales.collect()).unwrap();
            let weight = upload(client, &packed);
            let expected = packed.dequantize();
            let found = weight.dequantize(client, 0..shape[0], FloatBits::F32);
            let mut found = floats(client, found);
            for (found, expected) in found.iter_mut().zip(&expected) {
                if expected.is_subnormal() && *found == 0.0 {
                    *found = *expected;
                }
            }
            let what = format!("{format} {shape:?}");
            assert_bits(&found, &expected, &what);
            if half {
                let out = weight.dequantize(client, 0..shape[0], FloatBits::F16);
                let bytes = client.read_one(out.into_handle()).unwrap();
                let mut found = vec![0.0; expected.len()];
                FloatBits::F16.widen(&bytes[..2 * expected.len()], &mut found);
                let expected = rounded(&expected, FloatBits::F16);
                for (found, expected) in found.iter().zip(&expected) {
                    let off = (found - expected).abs() / expected.abs();
                    let same = found == expected || found.is_nan() && expected.is_nan();
                    assert!(same || off <= 1e-3, "{what}: {found} {expected}");
                }
            }
        }
    }
}

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
            let found = weight.rows(client, &wide, i64::elem_type_native(), FloatBits::F32);
            let what = format!("{} {shape:?}", packed.format);
            assert_bits(&floats(client, found), &expected, &what);

            let narrow = Buffer::upload(
                client,
                &ids[..6].iter().map(|id| *id as u32).collect::<Vec<_>>(),
            );
            for id_type in [i32::elem_type_native(), u32::elem_type_native()] {
                let found = weight.rows(client, &narrow, id_type, FloatBits::F32);
                assert_bits(&floats(client, found), &expected[..6 * i], &what);
            }
        }
    }
}

fn products_are_those_of_the_unpacked_weight(client: &Client) {
    let mut random = Random(5);
    for shape @ [o, i] in SHAPES {
        // Compiling takes a software device its time: a few formats, of which two with more inputs.
        for packed in every_format(shape, &mut random) {
            let (few, more) = match packed.format {
                Format::Nf4(Blocks { block: 32, .. }) | Format::Int8 => (true, true),
                Format::Fp4(Blocks { block: 64, nested }) => (!nested, false),
                Format::Fp8(Fp8Kind::E4m3, Tile::Row | Tile::Block { cols: 5, .. }) => {
                    (true, false)
                }
                Format::Fp8(Fp8Kind::E5m2, Tile::Block { rows: 8, .. }) => (true, false),
                Format::Affine(affine) => (affine.group == 32, false),
                _ => (false, false),
            };
            if !few {
                continue;
            }
            let weight = upload(client, &packed);
            let w = packed.dequantize();
            for m in [1, 2, 3, 5, 8].into_iter().take(if more { 5 } else { 1 }) {
                let x: Vec<f32> = (0..m * i).map(|_| random.weight()).collect();
                let bits: Vec<u32> = x.iter().map(|x| x.to_bits()).collect();
                let x_buffer = Buffer::upload(client, &bits);
                let y = weight.linear(client, &x_buffer, FloatBits::F32, m);
                let y = floats(client, y);
                assert_eq!(y.len(), m * o);
                for (k, y) in y.iter().enumerate() {
                    let (x, w) = (&x[k / o * i..][..i], &w[k % o * i..][..i]);
                    let products = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
                    let (sum, size) = products.fold((0.0, 0.0), |(sum, size), xw: f64| {
                        (sum + xw, size + xw.abs())
                    });
                    let off = (f64::from(*y) - sum).abs();
                    assert!(
                        off <= 1e-5 * size,
                        "{} {shape:?} {m} {k}: off by {off:e}",
                        packed.format
                    );
                }
            }
        }
    }
}

/// Sums of a device against those of the host, on weights with what is not finite, saturated and tiny.
fn compared_as_on_the_host(client: &Client) {
    let mut random = Random(11);
    for (shape, source) in [
        ([1, 1], FloatBits::F32),
        ([3, 33], FloatBits::F16),
        ([33, 96], FloatBits::F16),
        ([16, 257], FloatBits::Bf16),
        ([40, 136], FloatBits::F32),
        ([640, 4096], FloatBits::Bf16),
    ] {
        let row_bytes = shape[1] * source.size();
        for packed in every_format(shape, &mut random) {
            let few = match packed.format {
                Format::Nf4(Blocks { block: 32, .. }) | Format::Int8 => true,
                Format::Fp8(_, Tile::Row | Tile::Block { cols: 5, .. }) => true,
                Format::Affine(affine) => affine.group == 32,
                _ => false,
            };
            if !few {
                continue;
            }
            // Another weight than the one that was packed: some of it is beyond what the scales can give.
            let mut bytes = random.weights(shape[0] * shape[1], source);
            if shape[0] > 1 {
                let infinite: &[u8] = match source {
                    FloatBits::F32 => &f32::INFINITY.to_le_bytes(),
                    FloatBits::F16 => &0x7e00u16.to_le_bytes(),
                    FloatBits::Bf16 => &0xff80u16.to_le_bytes(),
                };
                bytes[row_bytes + 4 * source.size()..][..source.size()].copy_from_slice(infinite);
            }
            let mut packed = packed;
            let end = packed.scales.len() - 1;
            if shape[0] > 30 {
                packed.scales[end / 2] = f32::NAN.to_bits();
            }
            let expected = compare::host(source, &bytes, &packed);
            let mut words = bytes.clone();
            words.resize(bytes.len().next_multiple_of(4), 0xff);
            let words: Vec<u32> = bytemuck::pod_collect_to_vec(&words);
            let words = Buffer::upload(client, &words);
            let weight = upload(client, &packed);
            let read = || {
                let sums = compare::compare(client, source, &words, &weight);
                let sums = client.read_one(sums.into_handle()).unwrap();
                let sums: [u32; compare::SUMS] = bytemuck::cast_slice(&sums).try_into().unwrap();
                sums
            };
            let found = read();
            assert_eq!(found, read(), "twice");
            let found = compare::Sums::from_words(found);
            let what = format!(
                "{} {shape:?} {source:?}: {found:?} {expected:?}",
                packed.format
            );
            assert_eq!(found.compared, expected.compared, "{what}");
            assert_eq!(found.saturated, expected.saturated, "{what}");
            assert_eq!(found.lost_sources, expected.lost_sources, "{what}");
            assert_eq!(found.lost_results, expected.lost_results, "{what}");
            let close = |found: f64, expected: f64, size: f64| {
                let off = (found - expected).abs();
                assert!(off <= compare::TOLERANCE * size, "{what}");
            };
            let products = (expected.source_squares * expected.result_squares).sqrt();
            close(found.largest, expected.largest, expected.largest);
            close(found.errors, expected.errors, expected.errors);
            close(
                found.error_squares,
                expected.error_squares,
                expected.error_squares,
            );
            close(
                found.source_squares,
                expected.source_squares,
                expected.source_squares,
            );
            close(
                found.result_squares,
                expected.result_squares,
                expected.result_squares,
            );
            close(found.products, expected.products, products);
        }
    }
}

macro_rules! on_every_device {
    ($($test:ident),*) => {
        $(mod $test {
            #[cfg(feature = "vulkan")]
            #[test]
            fn vulkan() {
                super::$test(&cubecl::Device::vulkan(super::WgpuDeviceKind::default()).unwrap().client());
            }

            #[cfg(feature = "webgpu")]
            #[test]
            fn gl() {
                super::$test(&cubecl::Device::gl(super::WgpuDeviceKind::default()).unwrap().client());
            }

            #[cfg(feature = "cuda")]
            #[test]
            fn cuda() {
                super::$test(&cubecl::Device::cuda(0).unwrap().client());
            }
        })*
    };
}

on_every_device!(
    dequantize_is_the_hosts,
    any_words_give_what_they_give_on_the_host,
    rows_are_the_hosts,
    products_are_those_of_the_unpacked_weight,
    compared_as_on_the_host
);
