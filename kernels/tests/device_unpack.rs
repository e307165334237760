//! Packed weights on devices against the host.
#![cfg(feature = "cube")]

mod common;

use common::{Random, assert_bits, fed};
use cubecl::prelude::*;
use cubecl::{client::Client, device::WgpuDeviceKind};
use firebox_kernels::device::Weight;
use firebox_kernels::float::FloatBits;
use firebox_kernels::format::{Blocks, Format, Fp8Kind, Packed, Tile};
use firebox_kernels::fp8::Recipe;
use firebox_kernels::launch::Buffer;
use firebox_kernels::packer::Packer;
use firebox_kernels::{affine, fp4, fp8, int8, nf4};

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
    rows_are_the_hosts,
    products_are_those_of_the_unpacked_weight
);
