//! Products and rows of packed weights against the unpacked weight.

mod common;

use common::{Random, fed};
use firebox_kernels::arith::float::DType;
use firebox_kernels::arith::pack;
use firebox_kernels::format::FormatError;
use firebox_kernels::format::{Format, Fp8Kind, Half, Micro, Packed, Tile};
use firebox_kernels::formats::fp8::Recipe;
use firebox_kernels::formats::{affine, bits4, fp8, int8, micro};
use firebox_kernels::linear::{linear, rows};
use firebox_kernels::packer::pack_whole;

/// One weight in every format that has its shape.
fn every_format(shape: [usize; 2], random: &mut Random) -> Vec<Packed> {
    let source = DType::Bf16;
    let bytes = random.weights(shape[0] * shape[1], source);
    let fp8 = |kind, tile| {
        fp8::packer(
            shape,
            source,
            kind,
            tile,
            Recipe::FineGrained { ue8m0: false },
        )
        .unwrap()
    };
    let affine = [(2, 32), (3, 32), (4, 64), (5, 32), (6, 64), (8, 32)].into_iter();
    let affine = affine.filter(|(_, group)| shape[1].is_multiple_of(*group));
    let affine = affine.map(|(bits, group)| affine::packer(shape, source, bits, group).unwrap());
    let micro = [Micro::Mxfp4, Micro::Mxfp8].into_iter();
    let micro = micro.chain([false, true].map(|global| Micro::Nvfp4 { global }));
    let micro = micro.filter_map(|micro| micro::packer(shape, source, micro).ok());
    [
        bits4::nf4(shape, source, 64, false).unwrap(),
        bits4::nf4(shape, source, 32, true).unwrap(),
        bits4::fp4(shape, source, 128, false).unwrap(),
        fp8(Fp8Kind::E4m3, Tile::Tensor),
        fp8(Fp8Kind::E4m3, Tile::Row),
        fp8(Fp8Kind::E5m2, Tile::Block { rows: 8, cols: 24 }),
        int8::packer(shape, source).unwrap(),
    ]
    .into_iter()
    .chain(affine)
    .chain(micro)
    .map(|packer| fed(packer, &bytes, shape[1] * source.size(), 0))
    .chain([Half::F16, Half::Bf16].map(|half| {
        let bytes = random.weights(shape[0] * shape[1], half.dtype());
        let words = pack::from_bytes(&bytes);
        Packed::new(Format::Half(half), shape, words, Vec::new()).unwrap()
    }))
    .collect()
}

/// Shapes that fill neither words, nor blocks, nor the rows multiplied together. A row that begins inside
/// a word, a scale of the row before, or outputs that are not transposed back fail here.
#[test]
fn products_are_those_of_the_unpacked_weight() {
    let mut random = Random(5);
    for shape @ [o, i] in [
        [1, 1],
        [3, 33],
        [50, 65],
        [33, 96],
        [70, 7],
        [16, 257],
        [5, 192],
        // Columns that are multiplied in two turns, rows that are not multiplied together.
        [21, 1056],
    ] {
        for packed in every_format(shape, &mut random) {
            let w = packed.dequantize();
            for m in [1, 2, 5, 7] {
                let x: Vec<f32> = (0..m * i).map(|_| random.weight()).collect();
                let mut y = vec![f32::NAN; m * o];
                linear(
                    packed.format,
                    shape,
                    &packed.words,
                    &packed.scales,
                    &x,
                    &mut y,
                );
                for (k, y) in y.iter().enumerate() {
                    let (x, w) = (&x[k / o * i..][..i], &w[k % o * i..][..i]);
                    let products = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
                    let (sum, size) = products.fold((0.0, 0.0), |(sum, size), xw: f64| {
                        (sum + xw, size + xw.abs())
                    });
                    let off = (f64::from(*y) - sum).abs();
                    assert!(
                        off <= 1e-5 * size,
                        "{} {shape:?} {k}: off by {off:e}",
                        packed.format
                    );
                }
            }
        }
    }
}

/// The order of a sum depends neither on how many inputs there are nor on the threads.
#[test]
fn an_output_has_the_same_bits_alone_and_among_others() {
    let mut random = Random(9);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(3)
        .build()
        .unwrap();
    let both = [[39, 100], [39, 64], [50, 1152]].map(|shape| every_format(shape, &mut random));
    for Packed {
        format,
        shape: shape @ [o, i],
        words,
        scales,
    } in both.into_iter().flatten()
    {
        // Tiles of six, two and one.
        let m = 9;
        let x: Vec<f32> = (0..m * i).map(|_| random.weight()).collect();
        let mut together = vec![0.0; m * o];
        pool.install(|| linear(format, shape, &words, &scales, &x, &mut together));
        for k in 0..m {
            let mut alone = vec![0.0; o];
            linear(format, shape, &words, &scales, &x[k * i..][..i], &mut alone);
            assert_eq!(alone, together[k * o..][..o], "{format}");
        }
    }
}

#[test]
fn rows_are_those_of_the_unpacked_weight() {
    let mut random = Random(2);
    for shape @ [o, i] in [[1, 1], [9, 33], [40, 64]] {
        for packed in every_format(shape, &mut random) {
            let Packed {
                format,
                ref words,
                ref scales,
                ..
            } = packed;
            let ids = [o - 1, 0, o / 2, 0];
            let mut out = vec![f32::NAN; ids.len() * i];
            rows(format, shape, words, scales, &ids, &mut out).unwrap();
            let w = packed.dequantize();
            for (id, out) in ids.iter().zip(out.chunks(i)) {
                assert_eq!(out, &w[id * i..][..i], "{format} row {id}");
            }
            let error = rows(format, shape, words, scales, &[0, o], &mut vec![0.0; 2 * i]);
            assert_eq!(error, Err(FormatError::Row { row: o, rows: o }));
        }
    }
}

/// No rows, no columns, no inputs.
#[test]
fn empty_products_are_zero() {
    for (shape, x, mut y) in [
        ([0, 8], vec![0.0; 16], vec![]),
        ([8, 0], vec![], vec![1.0; 16]),
        ([8, 8], vec![], vec![]),
    ] {
        let packer = bits4::nf4(shape, DType::F32, 64, false).unwrap();
        let packed = pack_whole(packer, &vec![0; shape[0] * shape[1] * 4]);
        linear(
            packed.format,
            shape,
            &packed.words,
            &packed.scales,
            &x,
            &mut y,
        );
        assert!(y.iter().all(|y| *y == 0.0));
        rows(
            packed.format,
            shape,
            &packed.words,
            &packed.scales,
            &[],
            &mut [0f32; 0],
        )
        .unwrap();
    }
}

/// Cuts that fall inside blocks, scale tiles or words, and scales taken from the wrong rows, fail here.
#[test]
fn parts_give_back_the_rows_of_the_whole() {
    let mut random = Random(6);
    for shape @ [o, i] in [[200, 33], [96, 64], [1030, 96], [64, 4096]] {
        for packed in every_format(shape, &mut random) {
            let (format, whole) = (packed.format, packed.dequantize());
            let one = format.cut(shape, packed.bytes() as u64);
            assert_eq!(
                one.expect("it fits").as_slice(),
                core::slice::from_ref(&(0..o))
            );
            // What must stay together has to fit twice for a cut to be asked for.
            let unit = format.packed_bytes([format.part_rows(shape), i]) as u64;
            assert_eq!(format.cut(shape, unit - 1), None, "{format} {shape:?}");
            for largest in [unit, 2 * unit + 3, packed.bytes() as u64 - 1] {
                let Some(parts) = format.cut(shape, largest) else {
                    assert!(largest < unit, "{format} {shape:?} into {largest}");
                    continue;
                };
                let mut next = 0;
                for rows in parts {
                    assert_eq!(rows.start, next, "{format} {shape:?}");
                    next = rows.end;
                    let part = packed.part(rows.clone());
                    assert!(
                        part.bytes() as u64 <= largest,
                        "{format} {shape:?} {rows:?}"
                    );
                    let part = Packed::new(format, part.shape, part.words, part.scales).unwrap();
                    assert_eq!(
                        part.dequantize(),
                        whole[rows.start * i..rows.end * i],
                        "{format} {shape:?} {rows:?}"
                    );
                }
                assert_eq!(next, o, "{format} {shape:?}");
            }
        }
    }
}
