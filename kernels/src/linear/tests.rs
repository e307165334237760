//! Every processor's products against those of what all processors have. What this one lacks is not tested.

use super::*;
use crate::arith::float::DType;
use crate::arith::lanes::Portable;
use crate::format::{Affine, Along, Micro, Offset, Packed};
use crate::formats::affine;
use crate::formats::micro;
use crate::formats::{bits4, int8};
use crate::packer::pack_whole;

/// Numbers that repeat nowhere near.
fn numbers(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8e6 - 1.0
    };
    (0..n).map(next).collect()
}

/// All outputs, of rows in jobs as the program makes them.
struct All<'a>(&'a Job<'a>);

impl Work for All<'_> {
    type Output = Vec<u32>;

    #[inline(always)]
    fn on<L: Lanes>(self, lanes: L) -> Vec<u32> {
        let Self(job) = self;
        let mut y = vec![f32::NAN; job.shape[0] * job.m];
        for (k, y) in y.chunks_mut(16 * job.m).enumerate() {
            let scratch = &mut Scratch::default();
            let first = 16 * k;
            SomeRows {
                job,
                first,
                scratch,
                y,
            }
            .on(lanes);
        }
        y.into_iter().map(f32::to_bits).collect()
    }
}

/// Formats with tables of their own, and one without.
fn every_table(shape: [usize; 2]) -> Vec<Packed> {
    let source = DType::F32;
    let bytes: Vec<u8> = numbers(shape[0] * shape[1], 3)
        .into_iter()
        .flat_map(f32::to_le_bytes)
        .collect();
    let packers = [
        bits4::nf4(shape, source, 64, false),
        bits4::nf4(shape, source, 32, true),
        bits4::fp4(shape, source, 64, false),
        affine::packer(shape, source, 4, 32),
        micro::packer(shape, source, Micro::Mxfp4),
        int8::packer(shape, source),
        affine::packer(shape, source, 8, 64),
        micro::packer(shape, source, Micro::Nvfp4 { global: true }),
        micro::packer(shape, source, Micro::Mxfp8),
    ];
    let mut all: Vec<Packed> = packers
        .map(|packer| pack_whole(packer.expect("the shape fits"), &bytes))
        .into();
    // With a zero instead of a bias.
    let zero = Affine::new(4, 64, Along::Flat, Offset::Zero, DType::F32).expect("it exists");
    let groups = zero.groups(shape);
    let pairs = [7, 5].map(|seed| {
        numbers(groups, seed)
            .into_iter()
            .map(f32::to_bits)
            .collect()
    });
    let [scales, zeros]: [Vec<u32>; 2] = pairs;
    all.push(Packed {
        format: Format::Affine(zero),
        scales: zero.join(&scales, &zeros),
        ..all[0].clone()
    });
    all
}

#[test]
fn every_processor_multiplies_to_the_same_bits() {
    let shape @ [_, i] = [23, 1152];
    for packed in every_table(shape) {
        let Packed {
            format,
            ref words,
            ref scales,
            ..
        } = packed;
        for m in [1, 3, 9] {
            let x = numbers(m * i, 11);
            let job = &Job::new(Compute::F32, format, shape, [words, scales], &x, m);
            assert_ne!(job.fours.is_some(), job.eights.is_some(), "{format}");
            let expected = lanes::on(Portable::<true>, All(job));
            #[cfg(target_arch = "x86_64")]
            {
                use pulp::x86::{V3, V4};
                if let Some(lanes) = V3::try_new() {
                    assert_eq!(lanes::on(lanes, All(job)), expected, "AVX2, {format}");
                }
                if let Some(lanes) = V4::try_new() {
                    assert_eq!(lanes::on(lanes, All(job)), expected, "AVX-512, {format}");
                }
            }
            // As the program adds where there is no such instruction.
            let twice = lanes::on(Portable::<false>, All(job));
            for (twice, once) in twice.into_iter().zip(expected) {
                let [twice, once] = [twice, once].map(f32::from_bits);
                assert!((twice - once).abs() < 1e-3, "{format}: {twice}, not {once}");
            }
        }
    }
}

/// Every unit that this processor has, against the portable one.
#[test]
fn every_unit_multiplies_bytes_to_the_same_bits() {
    let shape @ [o, i] = [55, 1152];
    for packed in every_table(shape) {
        let Packed {
            format,
            ref words,
            ref scales,
            ..
        } = packed;
        let Some(weight) = ByteWeight::new(format, shape, words, scales) else {
            assert_eq!(format, Format::Micro(Micro::Mxfp8));
            continue;
        };
        for m in [1, 2, 11] {
            let x = numbers(m * i, 17);
            let all = |unit: ByteUnit| {
                let product = ByteProduct::new(unit, weight, &x);
                let mut y = vec![f32::NAN; o * m];
                for (k, y) in y.chunks_mut(JOB_ROWS * m).enumerate() {
                    product.rows(k * JOB_ROWS, &mut ByteScratch::default(), y);
                }
                y.into_iter().map(f32::to_bits).collect::<Vec<_>>()
            };
            let expected = all(ByteUnit::Portable);
            for unit in ByteUnit::all() {
                assert_eq!(all(unit), expected, "{unit:?}, {format}, {m} inputs");
            }
        }
    }
}

/// Pairs of bf16 against the same numbers as `f32`.
#[cfg(target_arch = "x86_64")]
#[test]
fn pairs_are_multiplied_to_the_same_bits() {
    let (shape, m) = ([23, 1000], 9);
    let source = DType::F32;
    let bytes: Vec<u8> = numbers(23_000, 3)
        .into_iter()
        .flat_map(f32::to_le_bytes)
        .collect();
    let packed = pack_whole(int8::packer(shape, source).expect("it fits"), &bytes);
    let x = numbers(m * shape[1], 5);
    let packed_parts = [&packed.words[..], &packed.scales];
    let mut job = Job::new(Compute::Bf16, packed.format, shape, packed_parts, &x, m);
    if !matches!(job.x, Inputs::Bf16(Bf16Inputs::Paired(..))) {
        return;
    }
    let paired = lanes::run(All(&job));
    job.x = Inputs::Bf16(Bf16Inputs::split(&x, shape[1]));
    assert_eq!(lanes::run(All(&job)), paired);
}
