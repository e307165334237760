//! Weights given back in halves: where an `f32` is no number, no finite one, subnormal, or halfway between two halves.

mod common;

use common::in_all_types;
use firebox_kernels::arith::float::DType;
use firebox_kernels::format::{
    Affine, Along, Blocks, Format, Fp8Kind, Half, Micro, Offset, Packed, Tile,
};

/// Bits of `f32` with every exponent and sign, at and next to the middles between halves of either type.
fn patterns() -> impl Iterator<Item = u32> {
    let ends = [
        0, 1, 0xfff, 0x1000, 0x1001, 0x3000, 0x7fff, 0x8000, 0x8001, 0xffff,
    ];
    (0..=u16::MAX)
        .step_by(37)
        .flat_map(move |upper| ends.map(|lower| u32::from(upper) << 16 | lower))
        // Subnormal f16, and the middles between them and to their neighbours.
        .chain((1..0x800).map(|steps| (steps as f32 * 2f32.powi(-25)).to_bits()))
        .chain(
            [
                f32::INFINITY,
                f32::NEG_INFINITY,
                f32::MAX,
                65504.0,
                65519.99,
                65520.0,
            ]
            .map(f32::to_bits),
        )
}

/// A weight all of whose codes are `code`, under scales that are these patterns.
fn packed(format: Format, cols: usize, word: u32, scales: Vec<u32>) -> Packed {
    // As many rows as there are scales for.
    let mut rows = scales.len();
    while format.scales_len([rows, cols]) > scales.len() {
        rows -= 1;
    }
    let mut scales = scales;
    let shape = [rows, cols];
    scales.truncate(format.scales_len(shape));
    let words = vec![word; format.words_len(shape)];
    Packed::new(format, shape, words, scales).unwrap()
}

/// What a row of codes of 1 gives back is its scale: every pattern comes by, through vectors and through single values.
#[test]
fn patterns_are_rounded_as_in_half() {
    let blocks = Blocks {
        block: 32,
        nested: false,
    };
    let fp8 = |kind| Format::Fp8(kind, Tile::Row);
    for (format, cols, word) in [
        (Format::Nf4(blocks), 32, 0xffff_ffff),
        (Format::Fp4(blocks), 32, 0x3333_3333),
        (fp8(Fp8Kind::E4m3), 16, 0x3838_3838),
        (fp8(Fp8Kind::E4m3), 7, 0x3838_3838),
        (fp8(Fp8Kind::E5m2), 16, 0x3c3c_3c3c),
        (fp8(Fp8Kind::E5m2), 35, 0x3c3c_3c3c),
    ] {
        let scales: Vec<u32> = patterns().collect();
        let packed = packed(format, cols, word, scales);
        let values = in_all_types(&packed);
        let found = |is: &dyn Fn(&f32) -> bool| values.iter().any(is);
        assert!(found(&|value| value.is_nan()), "{format}");
        assert!(found(&|value| *value == f32::INFINITY), "{format}");
        assert!(found(&|value| value.is_subnormal()), "{format}");
        // Halfway to the next bf16, and to the next f16.
        assert!(
            found(&|value| value.to_bits() & 0xffff == 0x8000),
            "{format}"
        );
        assert!(
            found(&|value| value.to_bits() & 0x1fff == 0x1000),
            "{format}"
        );
    }
}

/// Every code under scales of every kind, in every format and in rows that begin inside of words and groups.
#[test]
fn every_format_rounds_as_half_does() {
    let blocks = |nested| Blocks { block: 32, nested };
    let affine = |bits, group, along, form, params| {
        Format::Affine(Affine::new(bits, group, along, form, params).unwrap())
    };
    let mut formats = vec![
        (Format::Nf4(blocks(false)), 37),
        (Format::Nf4(blocks(true)), 64),
        (Format::Fp4(blocks(false)), 37),
        (
            Format::Fp8(Fp8Kind::E4m3, Tile::Block { rows: 2, cols: 19 }),
            45,
        ),
        (Format::Fp8(Fp8Kind::E5m2, Tile::Row), 45),
        (Format::Int8, 45),
        (Format::Half(Half::F16), 45),
        (Format::Half(Half::Bf16), 45),
        (Format::Micro(Micro::Mxfp4), 96),
        (Format::Micro(Micro::Mxfp8), 96),
        (Format::Micro(Micro::Nvfp4 { global: false }), 48),
        (Format::Micro(Micro::Nvfp4 { global: true }), 48),
    ];
    for bits in [1, 2, 3, 4, 5, 6, 8] {
        for params in [DType::F32, DType::F16, DType::Bf16] {
            for form in [Offset::Bias, Offset::Zero] {
                formats.push((affine(bits, 64, Along::Flat, form, params), 128));
                formats.push((affine(bits, 16, Along::Flat, form, params), 48));
                formats.push((affine(bits, 64, Along::Strided, form, params), 64));
            }
        }
    }
    for (format, cols) in formats {
        let shape = [64, cols];
        let mut state = 1u32;
        let mut next = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state ^ state >> 15
        };
        let words = (0..format.words_len(shape)).map(&mut next).collect();
        let scales = (0..format.scales_len(shape)).map(&mut next).collect();
        let values = in_all_types(&Packed::new(format, shape, words, scales).unwrap());
        let finite = values.iter().filter(|value| value.is_finite()).count();
        // A nested scale that is no number makes all of them none.
        let all_nan = finite == 0 && format == Format::Nf4(blocks(true));
        assert!(finite > values.len() / 4 || all_nan, "{format}: {finite}");
    }
}
