//! Sizes and names of formats, written out.

use core::ops::Range;

use firebox_kernels::arith::float::DType;
use firebox_kernels::format::FormatError;
use firebox_kernels::format::{
    Affine, Along, Blocks, Format, Fp8Kind, Gguf, Half, Micro, Offset, Packed, Tile,
};

fn nf4(block: usize, nested: bool) -> Format {
    Format::Nf4(Blocks::new("nf4", block, nested).unwrap())
}

fn affine(bits: usize, group: usize, form: Offset, params: DType) -> Format {
    Format::Affine(Affine::new(bits, group, Along::Flat, form, params).unwrap())
}

fn along(along: Along, bits: usize, group: usize, params: DType) -> Format {
    Format::Affine(Affine::new(bits, group, along, Offset::Zero, params).unwrap())
}

/// Words of codes, words of scales, and the name: a changed layout has to change this table.
#[test]
fn sizes_and_names_are_these() {
    let fp4 = Format::Fp4(Blocks {
        block: 128,
        nested: true,
    });
    let fp8 = |tile| Format::Fp8(Fp8Kind::E4m3, tile);
    let block = Tile::Block {
        rows: 128,
        cols: 128,
    };
    let wide = Tile::Block { rows: 64, cols: 32 };
    let nvfp4 = |global| Format::Micro(Micro::Nvfp4 { global });
    let table: [(Format, [usize; 2], usize, usize, &str); 36] = [
        (
            nf4(64, false),
            [4096, 4096],
            1 << 21,
            1 << 18,
            "nf4:block=64",
        ),
        // 2^18 codes in 2^16 words, 2^10 upper scales, the offset.
        (
            nf4(64, true),
            [4096, 4096],
            1 << 21,
            65536 + 1024 + 1,
            "nf4:block=64,nested",
        ),
        (nf4(64, false), [7, 33], 29, 4, "nf4:block=64"),
        (nf4(64, true), [7, 33], 29, 1 + 1 + 1, "nf4:block=64,nested"),
        (fp4, [2, 64], 16, 3, "fp4:block=128,nested"),
        (nf4(32, true), [0, 5], 0, 1, "nf4:block=32,nested"),
        (fp8(Tile::Tensor), [3, 5], 4, 1, "fp8:e4m3,scale=tensor"),
        (fp8(Tile::Row), [3, 5], 4, 3, "fp8:e4m3,scale=channel"),
        (fp8(block), [136, 200], 6800, 4, "fp8:e4m3,scale=block"),
        (fp8(wide), [40, 192], 1920, 6, "fp8:e4m3,scale=64x32"),
        (
            fp8(block),
            [576, 7168],
            1032192,
            5 * 56,
            "fp8:e4m3,scale=block",
        ),
        (
            Format::Fp8(Fp8Kind::E5m2, wide),
            [1, 1],
            1,
            1,
            "fp8:e5m2,scale=64x32",
        ),
        (
            affine(4, 64, Offset::Bias, DType::Bf16),
            [4096, 4096],
            1 << 21,
            1 << 18,
            "affine:bits=4,group=64,bias=bf16",
        ),
        (
            affine(4, 64, Offset::Bias, DType::F32),
            [4096, 4096],
            1 << 21,
            1 << 19,
            "affine:bits=4,group=64,bias=f32",
        ),
        (
            affine(3, 32, Offset::Zero, DType::F16),
            [5, 96],
            45,
            15,
            "affine:bits=3,group=32,zero=f16",
        ),
        (
            affine(5, 128, Offset::Zero, DType::F32),
            [3, 128],
            60,
            6,
            "affine:bits=5,group=128,zero=f32",
        ),
        (
            affine(8, 32, Offset::Bias, DType::F16),
            [0, 32],
            0,
            0,
            "affine:bits=8,group=32,bias=f16",
        ),
        // One scale for all, in the order of the columns of `[8, 90]`, and a list for 72 columns.
        (
            affine(1, 720, Offset::Zero, DType::F16),
            [10, 72],
            23,
            1,
            "affine:bits=1,group=720,zero=f16",
        ),
        (
            along(Along::Strided, 6, 8, DType::F32),
            [10, 72],
            23 * 6,
            180,
            "affine:bits=6,group=8,strided,zero=f32",
        ),
        (
            along(Along::Ordered, 4, 32, DType::F16),
            [10, 72],
            92,
            30 + 72,
            "affine:bits=4,group=32,ordered,zero=f16",
        ),
        (Format::Int8, [3, 5], 4, 3, "int8"),
        // Blocks of 18, 210, 17 and 36 bytes.
        (Format::Gguf(Gguf::Q4_0), [3, 96], 41, 0, "q4_0"),
        (Format::Gguf(Gguf::Q6K), [5, 512], 525, 0, "q6_k"),
        (Format::Gguf(Gguf::Mxfp4), [7, 32], 30, 0, "gguf:mxfp4"),
        (Format::Gguf(Gguf::Nvfp4), [0, 64], 0, 0, "gguf:nvfp4"),
        (Format::Int8, [7, 0], 0, 7, "int8"),
        (
            Format::Micro(Micro::Mxfp4),
            [4096, 4096],
            1 << 21,
            1 << 17,
            "mxfp4",
        ),
        (
            Format::Micro(Micro::Mxfp8),
            [4096, 4096],
            1 << 22,
            1 << 17,
            "mxfp8",
        ),
        // Nine bytes of scales.
        (Format::Micro(Micro::Mxfp8), [3, 96], 72, 3, "mxfp8"),
        (nvfp4(false), [4096, 4096], 1 << 21, 1 << 18, "nvfp4"),
        (nvfp4(true), [3, 48], 18, 3 + 1, "nvfp4:global"),
        (nvfp4(true), [0, 16], 0, 1, "nvfp4:global"),
        (nvfp4(false), [5, 0], 0, 0, "nvfp4"),
        (Format::Half(Half::Bf16), [4096, 4096], 1 << 23, 0, "bf16"),
        (Format::Half(Half::F16), [3, 5], 8, 0, "f16"),
        (Format::Half(Half::F16), [0, 5], 0, 0, "f16"),
    ];
    for (format, shape, words, scales, name) in table {
        assert_eq!(format.to_string(), name);
        assert_eq!(format.words_len(shape), words, "{name} {shape:?}");
        assert_eq!(format.scales_len(shape), scales, "{name} {shape:?}");
        assert_eq!(
            format.packed_bytes(shape),
            4 * (words + scales),
            "{name} {shape:?}"
        );
        let packed = Packed::new(format, shape, vec![0; words], vec![0; scales]).unwrap();
        assert_eq!(packed.bytes(), 4 * (words + scales));
        assert_eq!(packed.dequantize().len(), shape[0] * shape[1]);
    }
}

#[test]
fn bits_per_weight_count_the_scales() {
    assert_eq!(nf4(64, false).bits_per_weight([4096, 4096]), 4.5);
    let nested = nf4(64, true).bits_per_weight([4096, 4096]);
    assert!((4.1269..4.1270).contains(&nested), "{nested}");
    let affine = affine(3, 64, Offset::Bias, DType::F16);
    assert_eq!(affine.bits_per_weight([4096, 4096]), 3.5);
    assert_eq!(Format::Int8.bits_per_weight([4096, 64]), 8.5);
    assert_eq!(Format::Half(Half::F16).bits_per_weight([4096, 64]), 16.0);
    let mxfp4 = Format::Micro(Micro::Mxfp4);
    assert_eq!(mxfp4.bits_per_weight([4096, 64]), 4.25);
    assert_eq!(nf4(64, false).bits_per_weight([0, 4096]), 0.0);
}

/// A file may claim any shape: what does not fit it is an error that gives both numbers.
#[test]
fn buffers_of_other_lengths_are_refused() {
    let format = nf4(64, false);
    let error = Packed::new(format, [2, 64], vec![0; 15], vec![0; 2]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "words holds 15 words, nf4:block=64 of 2 x 64 weights needs 16"
    );
    let error = Packed::new(format, [2, 64], vec![0; 16], vec![0; 3]).unwrap_err();
    assert!(matches!(
        error,
        FormatError::Length {
            buffer: "scales",
            found: 3,
            needed: 2,
            ..
        }
    ));
    let huge = [usize::MAX, usize::MAX];
    assert!(Packed::new(format, huge, vec![], vec![]).is_err());
    assert!(Packed::new(Format::Fp8(Fp8Kind::E4m3, Tile::Row), huge, vec![], vec![]).is_err());
    assert!(Packed::new(Format::Int8, huge, vec![], vec![]).is_err());
    let affine = affine(8, 32, Offset::Bias, DType::F32);
    let huge = [usize::MAX, 1 << 40];
    assert!(Packed::new(affine, huge, vec![], vec![]).is_err());
}

/// Any rows, as in the whole.
#[test]
fn some_rows_are_rows_of_all() {
    for (format, i) in [
        (nf4(32, false), 13),
        (Format::Int8, 13),
        (affine(3, 32, Offset::Zero, DType::F32), 64),
        (affine(6, 64, Offset::Bias, DType::F16), 64),
        (Format::Half(Half::Bf16), 13),
        (Format::Half(Half::F16), 35),
        (Format::Micro(Micro::Mxfp4), 96),
        (Format::Micro(Micro::Mxfp8), 32),
        (Format::Micro(Micro::Nvfp4 { global: true }), 48),
    ] {
        let shape = [5, i];
        let words = (1..=format.words_len(shape) as u32).map(|k| 0x9e37_79b9_u32.wrapping_mul(k));
        // Numbers as f32 and as two halves.
        let scales = (1..=format.scales_len(shape) as u32).map(|k| 0x3c00_3800 + 0x0011_0101 * k);
        let packed = Packed::new(format, shape, words.collect(), scales.collect()).unwrap();
        // One NaN is as good as another.
        let bits = |values: Vec<f32>| {
            let values = values.into_iter();
            let values = values.map(|value| if value.is_nan() { f32::NAN } else { value });
            values.map(f32::to_bits).collect::<Vec<_>>()
        };
        let all = bits(packed.dequantize());
        for start in 0..=5 {
            for end in start..=5 {
                let mut some = vec![0.0; (end - start) * i];
                let (words, scales) = (&packed.words, &packed.scales);
                format.dequantize_rows(shape, words, scales, start..end, &mut some);
                assert_eq!(bits(some), all[start * i..end * i], "{format}");
            }
        }
    }
}

/// A weight of 2^33 values, on a device whose allocations have no limit. Catches a part that kernels cannot count: they
/// count in `u32`.
#[test]
fn no_part_has_more_values_than_kernels_count() {
    let shape @ [rows, cols] = [1 << 17, 1 << 16];
    for format in [nf4(64, false), Format::Int8, Format::Half(Half::Bf16)] {
        let parts = format.cut(shape, u64::MAX).expect("rows are apart");
        assert_eq!(parts.first().map(|part| part.start), Some(0), "{format}");
        assert_eq!(parts.last().map(|part| part.end), Some(rows), "{format}");
        let joined = parts.windows(2).all(|two| two[0].end == two[1].start);
        assert!(joined, "{format}: {parts:?}");
        let fits = |part: &Range<usize>| u32::try_from(part.len() * cols).is_ok();
        assert!(parts.iter().all(fits), "{format}: {parts:?}");
    }
    // One row cannot be cut.
    assert_eq!(nf4(64, false).cut([1, 1 << 33], u64::MAX), None);
}
