//! Products in bf16 and in whole numbers against sums in `f64` of the numbers that each is said to multiply.

mod common;

use common::{Random, fed};
use firebox_kernels::arith::float::DType;
use firebox_kernels::format::{
    Affine, Along, Format, Fp8Kind, Gguf, Half, Micro, Offset, Packed, Tile,
};
use firebox_kernels::formats::fp8::Recipe;
use firebox_kernels::formats::wna16::{ScaleGroup, Wna16};
use firebox_kernels::formats::{affine, bits4, fp8, int8, micro};
use firebox_kernels::linear::{Compute, linear, linear_in};
use half::bf16;

/// A weight and the columns that share a scale in it: all of a row, or none where whole numbers do not fit.
type Weight = (Packed, Option<usize>);

/// Weights of one shape that whole numbers fit, and some that they do not.
fn weights(shape @ [o, i]: [usize; 2], random: &mut Random) -> Vec<Weight> {
    let source = DType::Bf16;
    let bytes = random.weights(o * i, source);
    let fine = Recipe::FineGrained { ue8m0: false };
    let wna16 = |bits, scale, symmetric| {
        Wna16 {
            bits,
            scale,
            symmetric,
        }
        .packer(shape, source)
    };
    let rows = |group: usize| i.is_multiple_of(group).then_some(group);
    let mut all = vec![
        (bits4::nf4(shape, source, 64, false), rows(64)),
        (bits4::nf4(shape, source, 32, true), rows(32)),
        (bits4::fp4(shape, source, 256, false), rows(256)),
        (int8::packer(shape, source), Some(i)),
        (wna16(8, ScaleGroup::Channel, true), Some(i)),
        (wna16(3, ScaleGroup::Channel, false), Some(i)),
        (wna16(4, ScaleGroup::Tensor, true), Some(i)),
        (
            fp8::packer(shape, source, Fp8Kind::E4m3, Tile::Row, fine),
            None,
        ),
    ];
    for (bits, group) in [(2, 32), (3, 64), (4, 64), (5, 128), (6, 32), (8, 64)] {
        if i.is_multiple_of(group) {
            all.push((affine::packer(shape, source, bits, group), Some(group)));
        }
    }
    for (micro, group) in [
        (Micro::Mxfp4, Some(32)),
        (Micro::Nvfp4 { global: true }, Some(16)),
        (Micro::Mxfp8, None),
    ] {
        if i.is_multiple_of(32) {
            all.push((micro::packer(shape, source, micro), group));
        }
    }
    let packed = all.into_iter().map(|(packer, group)| {
        let packer = packer.expect("the shape fits");
        (fed(packer, &bytes, i * source.size(), 0), group)
    });
    packed
        .chain(gguf(shape, random))
        .chain(others(shape, random))
        .collect()
}

/// Random blocks of every type.
fn gguf(shape: [usize; 2], random: &mut Random) -> Vec<Weight> {
    let kinds = Gguf::ALL
        .into_iter()
        .filter(|kind| shape[1].is_multiple_of(kind.block()));
    kinds
        .map(|kind| {
            let format = Format::Gguf(kind);
            // Bytes below 64: no scale among them is infinite or no number.
            let words = (0..format.words_len(shape)).map(|_| random.next() as u32 & 0x3f3f_3f3f);
            let packed = Packed::new(format, shape, words.collect(), Vec::new()).unwrap();
            let whole = !matches!(kind, Gguf::Iq1S | Gguf::Iq1M);
            (packed, whole.then_some(kind.part()))
        })
        .collect()
}

/// Groups that do not lie along rows, and halves.
fn others(shape @ [o, i]: [usize; 2], random: &mut Random) -> Vec<Weight> {
    let half = Format::Half(Half::F16);
    let words = (0..half.words_len(shape)).map(|_| random.next() as u32 & 0xbbff_bbff);
    let mut all = vec![(
        Packed::new(half, shape, words.collect(), Vec::new()).unwrap(),
        None,
    )];
    if (o * i).is_multiple_of(8) {
        let affine = Affine::new(4, 8, Along::Strided, Offset::Zero, DType::F32).unwrap();
        let format = Format::Affine(affine);
        let words: Vec<u32> = (0..format.words_len(shape))
            .map(|_| random.next() as u32)
            .collect();
        let numbers: Vec<u32> = (0..affine.groups(shape))
            .map(|_| random.weight().to_bits())
            .collect();
        let scales = affine.join(&numbers, &numbers);
        all.push((Packed::new(format, shape, words, scales).unwrap(), None));
    }
    all
}

fn product(compute: Compute, packed: &Packed, x: &[f32]) -> Vec<f32> {
    let Packed {
        format,
        shape,
        ref words,
        ref scales,
    } = *packed;
    let mut y = vec![f32::NAN; x.len() / shape[1] * shape[0]];
    linear_in(compute, format, shape, words, scales, x, &mut y);
    y
}

/// Compares with sums of products of `w` and `x` in `f64`. Numbers under a scale may be as large as the weight's largest.
fn check(packed: &Packed, w: &[f64], x: &[f64], y: &[f32]) {
    let [o, i] = packed.shape;
    let largest = w.iter().fold(0f64, |largest, w| largest.max(w.abs()));
    for (k, y) in y.iter().enumerate() {
        let (x, w) = (&x[k / o * i..][..i], &w[k % o * i..][..i]);
        let sum: f64 = x.iter().zip(w).map(|(x, w)| x * w).sum();
        let size = largest * x.iter().map(|x| x.abs()).sum::<f64>();
        let off = (f64::from(*y) - sum).abs();
        assert!(
            // Dot products of bf16 take the smallest numbers for zero.
            off <= 2e-6 * size + 1e-36,
            "{} {:?} {k}: off by {off:e} of {size:e}",
            packed.format,
            packed.shape
        );
    }
}

/// Inputs rounded to whole numbers of a 127th of the largest magnitude of their block.
fn in_blocks(x: &[f32], i: usize, block: usize) -> Vec<f64> {
    let rows = x.chunks(i).flat_map(|row| row.chunks(block));
    rows.flat_map(|x| {
        let largest = x.iter().fold(0f32, |largest, x| largest.max(x.abs()));
        let scale = largest / 127.0;
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        x.iter()
            .map(move |x| f64::from((x * inverse).round_ties_even()) * f64::from(scale))
    })
    .collect()
}

/// Weights whose levels are rounded to a 127th of the largest magnitude of their block.
fn in_levels(packed: &Packed, w: Vec<f32>) -> Vec<f64> {
    let (Format::Nf4(blocks) | Format::Fp4(blocks)) = packed.format else {
        return w.into_iter().map(f64::from).collect();
    };
    let scales = bits4::Scales::new(blocks, w.len(), &packed.scales);
    let levels = w.into_iter().enumerate().map(|(k, w)| {
        let scale = f64::from(scales.get(k / blocks.block)) / 127.0;
        if scale == 0.0 {
            0.0
        } else {
            (f64::from(w) / scale).round() * scale
        }
    });
    levels.collect()
}

const SHAPES: [[usize; 2]; 8] = [
    [1, 1],
    [3, 33],
    [50, 65],
    [70, 7],
    [33, 96],
    [37, 256],
    [65, 768],
    [19, 1152],
];

#[test]
fn whole_numbers_are_those_of_codes_and_of_inputs_rounded_in_blocks() {
    let mut random = Random(5);
    for shape @ [_, i] in SHAPES {
        for (packed, group) in weights(shape, &mut random) {
            let compute = Compute::Int8.of(packed.format, shape);
            for m in [1, 2, 3, 7, 17] {
                let x: Vec<f32> = (0..m * i).map(|_| random.weight()).collect();
                let y = product(Compute::Int8, &packed, &x);
                let Some(group) = group else {
                    assert_eq!(compute, Compute::F32, "{}", packed.format);
                    assert_eq!(y, product(Compute::F32, &packed, &x));
                    continue;
                };
                assert_eq!(compute, Compute::Int8, "{} {shape:?}", packed.format);
                let block = if group == i {
                    128
                } else {
                    1 << group.trailing_zeros().min(7)
                };
                let w = in_levels(&packed, packed.dequantize());
                check(&packed, &w, &in_blocks(&x, i, block), &y);
            }
        }
    }
}

#[test]
fn more_than_four_inputs_are_multiplied_in_bf16() {
    let mut random = Random(6);
    for shape @ [_, i] in SHAPES {
        for (packed, _) in weights(shape, &mut random) {
            assert_eq!(Compute::Bf16.of(packed.format, shape), Compute::Bf16);
            let round =
                |x: &[f32]| -> Vec<f64> { x.iter().map(|x| bf16::from_f32(*x).to_f64()).collect() };
            let w = round(&packed.dequantize());
            for m in [1, 4, 5, 17] {
                let x: Vec<f32> = (0..m * i).map(|_| random.weight()).collect();
                let y = product(Compute::Bf16, &packed, &x);
                if m > 4 {
                    check(&packed, &w, &round(&x), &y);
                } else {
                    assert_eq!(y, product(Compute::F32, &packed, &x));
                }
            }
        }
    }
}

/// Columns in several blocks of a cache, and inputs in several turns.
#[test]
fn an_output_has_the_same_bits_alone_and_among_others() {
    let mut random = Random(9);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(3)
        .build()
        .unwrap();
    for shape @ [o, i] in [[39, 100], [35, 256], [50, 1152]] {
        for (packed, _) in weights(shape, &mut random) {
            let m = 13;
            let x: Vec<f32> = (0..m * i).map(|_| random.weight()).collect();
            let together = pool.install(|| product(Compute::Int8, &packed, &x));
            for k in 0..m {
                let alone = product(Compute::Int8, &packed, &x[k * i..][..i]);
                assert_eq!(alone, together[k * o..][..o], "{}", packed.format);
            }
            let together = pool.install(|| product(Compute::Bf16, &packed, &x));
            let others = product(Compute::Bf16, &packed, &x[4 * i..][..7 * i]);
            assert_eq!(others, together[4 * o..][..7 * o], "{}", packed.format);
        }
    }
}

/// Rows longer than a block of the second cache, and more inputs than are multiplied in one turn.
#[test]
fn long_rows_and_many_inputs_have_the_same_bits_as_few() {
    let mut random = Random(10);
    for [o, i, m] in [[5, 16 * 1024, 140], [2, 100_000, 25]] {
        let packer = int8::packer([o, i], DType::Bf16).unwrap();
        let bytes = random.weights(o * i, DType::Bf16);
        let packed = fed(packer, &bytes, 2 * i, 0);
        let x: Vec<f32> = (0..m * i).map(|_| random.weight()).collect();
        for compute in Compute::ALL {
            let together = product(compute, &packed, &x);
            for k in [0, m / 2, m - 5] {
                let alone = product(compute, &packed, &x[k * i..][..5 * i]);
                assert_eq!(alone, together[k * o..][..5 * o], "{compute}");
            }
        }
        let y = product(Compute::F32, &packed, &x[..i]);
        let w: Vec<f64> = packed.dequantize().into_iter().map(f64::from).collect();
        let x: Vec<f64> = x[..i].iter().copied().map(f64::from).collect();
        check(&packed, &w, &x, &y);
    }
}

/// A value that is not finite makes its outputs NaN, and no others.
#[test]
fn inputs_that_are_no_numbers_are_not_lost() {
    let mut random = Random(12);
    let packer = bits4::nf4([40, 128], DType::Bf16, 64, false).unwrap();
    let packed = fed(packer, &random.weights(40 * 128, DType::Bf16), 256, 0);
    for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x: Vec<f32> = (0..7 * 128).map(|_| random.weight()).collect();
        x[3 * 128 + 77] = odd;
        let y = product(Compute::Int8, &packed, &x);
        for (k, y) in y.iter().enumerate() {
            assert_eq!(y.is_nan(), k / 40 == 3, "output {k}: {y}");
        }
    }
}

#[test]
fn zeros_and_nothing_are_multiplied() {
    let packer = int8::packer([3, 8], DType::F32).unwrap();
    let packed = firebox_kernels::packer::pack_whole(packer, &[0; 96]);
    for compute in Compute::ALL {
        assert_eq!(product(compute, &packed, &[0.0; 48]), [0.0; 18]);
        assert!(product(compute, &packed, &[]).is_empty());
    }
    let mut y = [1.0; 3];
    linear(
        packed.format,
        [3, 8],
        &packed.words,
        &packed.scales,
        &[1.0; 8],
        &mut y,
    );
    assert_eq!(y, [0.0; 3]);
}

#[test]
fn arithmetic_is_named() {
    for compute in Compute::ALL {
        assert_eq!(compute.to_string().parse(), Ok(compute));
    }
    assert!("fp16".parse::<Compute>().is_err());
}
