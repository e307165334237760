//! Products on a device, against sums in `f64` of the weight that the host gives back.

use cubecl::client::Client;
use firebox_kernels::arith::float::DType;
use firebox_kernels::arith::launch::Buffer;
use firebox_kernels::format::{Blocks, Format, Fp8Kind, Gguf, Micro, Offset, Tile};

use crate::common::Random;
use crate::unpack::{SHAPES, every_format, floats, upload};

crate::targets::on_devices!(products_are_those_of_the_unpacked_weight);

/// One to eight inputs.
fn products_are_those_of_the_unpacked_weight(client: &Client) {
    let mut random = Random(5);
    // The last has so many rows that teams take more of them at a time.
    for shape @ [o, i] in SHAPES.into_iter().chain([[16387, 8]]) {
        // Compiling takes a software device its time: a few formats, of which two with more inputs.
        for packed in every_format(shape, &mut random) {
            let (few, more) = match packed.format {
                Format::Nf4(Blocks { block: 32, nested }) => (true, nested),
                Format::Int8 => (true, false),
                Format::Fp4(Blocks { block: 64, nested }) => (!nested, false),
                Format::Fp8(Fp8Kind::E4m3, Tile::Row | Tile::Block { cols: 5, .. }) => {
                    (true, false)
                }
                Format::Fp8(Fp8Kind::E5m2, Tile::Block { rows: 8, .. }) => (true, false),
                // Those of MLX with groups of 32, and all that have other groups.
                Format::Affine(affine) => {
                    let mlx = affine.form == Offset::Bias;
                    (!mlx || affine.group == 32, false)
                }
                Format::Half(_) => (true, false),
                Format::Gguf(kind) => (true, kind == Gguf::Q5K),
                Format::Micro(micro) => (micro != Micro::Nvfp4 { global: false }, false),
                _ => (false, false),
            };
            if !few || o > 16384 && !more {
                continue;
            }
            let weight = upload(client, &packed);
            let w = packed.dequantize();
            for m in [1, 2, 3, 5, 8].into_iter().take(if more { 5 } else { 1 }) {
                let x: Vec<f32> = (0..m * i).map(|_| random.weight()).collect();
                let bits: Vec<u32> = x.iter().map(|x| x.to_bits()).collect();
                let x_buffer = Buffer::upload(client, &bits);
                let y = weight.linear(client, &x_buffer, DType::F32, m);
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
