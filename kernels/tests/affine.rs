//! Layouts of whole numbers: which weights share a scale, bit by bit.

mod common;

use common::{Random, assert_bits, in_all_types};
use firebox_kernels::arith::float::DType;
use firebox_kernels::arith::pack;
use firebox_kernels::format::FormatError;
use firebox_kernels::format::{Affine, Along, Format, Offset, Packed};
use firebox_kernels::linear::{linear, rows};

const BITS: [usize; 7] = [1, 2, 3, 4, 5, 6, 8];
const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::Bf16];

/// A weight with random codes and parameters, and what it should give back.
struct Case {
    packed: Packed,
    expected: Vec<f32>,
}

impl Case {
    /// Groups are counted here by the words of the documentation of [`Along`].
    fn new(affine: Affine, shape: [usize; 2], random: &mut Random) -> Self {
        let [o, i] = shape;
        let n = o * i;
        let groups = match affine.along {
            Along::Flat | Along::Strided => n / affine.group,
            Along::Ordered => o * i.div_ceil(affine.group),
        };
        let across = i.div_ceil(affine.group);
        let list: Vec<u32> = (0..i)
            .map(|_| (random.next() % across as u64) as u32)
            .collect();
        let codes: Vec<u32> = (0..n)
            .map(|_| random.next() as u32 & ((1 << affine.bits) - 1))
            .collect();
        let mut stored = |about: f32| -> Vec<u32> {
            let weights = (0..groups).map(|_| affine.params.to_bits(about + random.weight()));
            weights.collect()
        };
        let (by, offsets) = (stored(0.1), stored(3.0));
        let group = |k: usize| match affine.along {
            Along::Flat => k / affine.group,
            Along::Strided => k % (n / affine.group),
            Along::Ordered => k / i * across + list[k % i] as usize,
        };
        let expected = (0..n).map(|k| {
            let code = codes[k] as f32;
            let [by, offset] =
                [by[group(k)], offsets[group(k)]].map(|b| affine.params.from_bits(b));
            match affine.form {
                Offset::Bias => code * by + offset,
                Offset::Zero => (code - offset) * by,
            }
        });
        let expected = expected.collect();
        let mut scales = affine.join(&by, &offsets);
        if affine.along == Along::Ordered {
            scales.extend(&list);
        }
        let words = pack::pack_codes(affine.bits, codes);
        let packed = Packed::new(Format::Affine(affine), shape, words, scales).unwrap();
        Self { packed, expected }
    }
}

/// Groups of odd sizes, of a row, of all, across rows, and the columns of a list; rows of odd lengths.
const LAYOUTS: [(Along, usize, [usize; 2]); 16] = [
    (Along::Flat, 1, [3, 5]),
    (Along::Flat, 8, [10, 72]),
    (Along::Flat, 48, [10, 72]),
    (Along::Flat, 33, [7, 33]),
    (Along::Flat, 7 * 33, [7, 33]),
    (Along::Flat, 16, [12, 24]),
    (Along::Flat, 64, [70, 32]),
    (Along::Flat, 4096, [4, 4096]),
    (Along::Strided, 1, [3, 5]),
    (Along::Strided, 8, [10, 72]),
    (Along::Strided, 7 * 33, [7, 33]),
    (Along::Strided, 64, [8, 4096]),
    (Along::Ordered, 32, [9, 96]),
    (Along::Ordered, 32, [9, 100]),
    (Along::Ordered, 5, [33, 33]),
    (Along::Ordered, 128, [70, 64]),
];

fn each(mut check: impl FnMut(Affine, [usize; 2], Case)) {
    let mut random = Random(77);
    for (along, group, shape) in LAYOUTS {
        for bits in BITS {
            for (params, form) in FLOATS
                .into_iter()
                .zip([Offset::Zero, Offset::Bias].into_iter().cycle())
            {
                let affine = Affine::new(bits, group, along, form, params).unwrap();
                check(affine, shape, Case::new(affine, shape, &mut random));
            }
        }
    }
}

/// Another group, another bit and another order of steps fail here, in whole weights and in any rows.
#[test]
fn weights_are_under_the_scale_of_their_group() {
    each(|affine, shape @ [o, i], case| {
        let what = format!("{affine} {shape:?}");
        assert_bits(&in_all_types(&case.packed), &case.expected, &what);
        for start in [0, 1, o / 2, o - 1] {
            for end in [start + 1, o - 1, o] {
                if start > end {
                    continue;
                }
                let mut some = vec![f32::NAN; (end - start) * i];
                let Packed {
                    format,
                    words,
                    scales,
                    ..
                } = &case.packed;
                format.dequantize_rows(shape, words, scales, start..end, &mut some);
                assert_bits(&some, &case.expected[start * i..end * i], &what);
            }
        }
    });
}

#[test]
fn products_and_rows_are_those_of_the_weight() {
    let mut random = Random(3);
    each(|affine, shape @ [o, i], case| {
        let Packed {
            format,
            words,
            scales,
            ..
        } = &case.packed;
        let x: Vec<f32> = (0..2 * i).map(|_| random.weight()).collect();
        let mut y = vec![f32::NAN; 2 * o];
        linear(*format, shape, words, scales, &x, &mut y);
        for (k, y) in y.iter().enumerate() {
            let (x, w) = (&x[k / o * i..][..i], &case.expected[k % o * i..][..i]);
            let products = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
            let (sum, size) = products.fold((0.0, 0.0), |(sum, size), xw: f64| {
                (sum + xw, size + xw.abs())
            });
            let off = (f64::from(*y) - sum).abs();
            assert!(off <= 1e-5 * size, "{affine} {shape:?} {k}: off by {off:e}");
        }
        let ids = [o - 1, 0, o / 2];
        let mut out = vec![f32::NAN; 3 * i];
        rows(*format, shape, words, scales, &ids, &mut out).unwrap();
        for (id, out) in ids.iter().zip(out.chunks(i)) {
            assert_bits(out, &case.expected[id * i..][..i], &affine.to_string());
        }
    });
}

/// Strided weights are one part; the others are cut where words and groups end.
#[test]
fn parts_give_back_the_rows_of_the_whole() {
    let mut cuts = 0;
    each(|affine, shape @ [o, i], case| {
        let format = case.packed.format;
        let unit = format.part_rows(shape);
        let bytes = case.packed.bytes() as u64;
        let least = format.packed_bytes([unit.min(o), i]) as u64;
        if affine.along == Along::Strided {
            assert_eq!(unit, o);
            assert_eq!(format.cut(shape, bytes - 1), None);
        }
        for largest in [least, 2 * least + 3, bytes] {
            let mut next = 0;
            for rows in format.cut(shape, largest).expect("a unit fits") {
                assert_eq!(rows.start, next);
                next = rows.end;
                cuts += usize::from(rows.len() < o);
                let part = case.packed.part(rows.clone());
                assert!(part.bytes() as u64 <= largest, "{affine} {shape:?}");
                let part = Packed::new(format, part.shape, part.words, part.scales).unwrap();
                let expected = &case.expected[rows.start * i..rows.end * i];
                assert_bits(&part.dequantize(), expected, &format!("{affine} {rows:?}"));
            }
            assert_eq!(next, o);
        }
    });
    assert!(cuts > 500, "{cuts} parts of more");
}

/// Any bits, whole streams or not.
#[test]
fn codes_come_back_from_their_words() {
    let mut random = Random(4);
    for bits in (1..=16).chain([31]) {
        for n in [0usize, 1, 31, 32, 33, 100] {
            let codes: Vec<u32> = (0..n)
                .map(|_| random.next() as u32 & ((1 << bits) - 1))
                .collect();
            let words = pack::pack_codes(bits, codes.iter().copied());
            assert_eq!(
                words.len(),
                n.div_ceil(32) * bits,
                "{n} codes of {bits} bits"
            );
            let bit = |at: usize| words[at / 32] >> (at % 32) & 1;
            for (k, code) in codes.iter().enumerate() {
                let found = (0..bits).map(|b| bit(k * bits + b) << b).sum::<u32>();
                assert_eq!(found, *code, "code {k} of {bits} bits");
            }
            let after = (n * bits..words.len() * 32).map(bit);
            assert_eq!(after.sum::<u32>(), 0, "after {n} codes of {bits} bits");
        }
    }
}

#[test]
#[should_panic(expected = "code 4 of 2 bits")]
fn a_code_of_more_bits_is_a_bug() {
    pack::pack_codes(2, [3, 4]);
}

/// With both numbers.
#[test]
fn what_cannot_be_is_refused() {
    let affine = |bits, group, along| Affine::new(bits, group, along, Offset::Zero, DType::F32);
    for found in [0, 7, 9, 16] {
        let refused = affine(found, 64, Along::Flat);
        assert_eq!(refused, Err(FormatError::Bits { found, least: 1 }));
    }
    assert_eq!(affine(4, 0, Along::Ordered), Err(FormatError::EmptyGroup));
    for along in [Along::Flat, Along::Strided] {
        let format = Format::Affine(affine(4, 33, along).unwrap());
        let (weights, group) = (64, 33);
        let refused = Err(FormatError::Groups { weights, group });
        assert_eq!(format.validate_shape([2, 32]), refused);
        assert_eq!(format.validate_shape([3, 22]), Ok(()));
    }
    let ordered = affine(4, 33, Along::Ordered).unwrap();
    let format = Format::Affine(ordered);
    assert_eq!(format.validate_shape([2, 67]), Ok(()));
    // Two rows of three pairs in two words each, and the list.
    assert_eq!(format.scales_len([2, 67]), 12 + 67);
    let mut scales = vec![0; 12 + 67];
    (scales[12], scales[12 + 66]) = (2, 3);
    let words = vec![0; format.words_len([2, 67])];
    let packed = Packed::new(format, [2, 67], words, scales);
    let refused = FormatError::Order {
        column: 66,
        found: 3,
        groups: 3,
    };
    assert_eq!(packed, Err(refused));
}

/// Nothing to divide by.
#[test]
fn empty_weights_give_back_nothing() {
    for along in [Along::Flat, Along::Strided, Along::Ordered] {
        let affine = Affine::new(3, 7, along, Offset::Zero, DType::F16).unwrap();
        for shape in [[0, 64], [64, 0], [0, 0]] {
            let format = Format::Affine(affine);
            let scales = vec![0; format.scales_len(shape)];
            let packed = Packed::new(format, shape, vec![], scales).unwrap();
            assert!(packed.dequantize().is_empty());
        }
    }
}
