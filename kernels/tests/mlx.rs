//! Affine codes against MLX.

mod common;

use common::{Golden, Random, Tensor, assert_bits, fed, in_all_types, size, text};
use firebox_kernels::arith::float::DType;
use firebox_kernels::arith::pack;
use firebox_kernels::format::FormatError;
use firebox_kernels::format::{Affine, Along, Format, Offset, Packed};
use firebox_kernels::formats::affine;
use firebox_kernels::linear::linear;
use firebox_kernels::packer::pack_whole;
use serde_json::Value;

const BITS: [usize; 6] = [2, 3, 4, 5, 6, 8];
const GROUPS: [usize; 3] = [32, 64, 128];
const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::Bf16];

/// What a case of `mlx_affine` asks for.
struct Case<'a> {
    golden: &'a Golden,
    name: &'a str,
    affine: Affine,
    input: Tensor,
}

impl<'a> Case<'a> {
    fn new(golden: &'a Golden, case: &'a Value) -> Self {
        let name = text(case, "name");
        // `edge_bf16_b3` and `bf16_b3_g64` have the inputs `edge_bf16` and `bf16`.
        let (input, _) = name.rsplit_once("_b").unwrap();
        let input = golden.get(&format!("inputs/{input}"));
        let (bits, group) = (size(case, "bits"), size(case, "group_size"));
        let affine = Affine::new(bits, group, Along::Flat, Offset::Bias, input.source()).unwrap();
        Self {
            golden,
            name,
            affine,
            input,
        }
    }

    fn get(&self, field: &str) -> Tensor {
        self.golden.get(&format!("{}/{field}", self.name))
    }

    fn packed(&self) -> Packed {
        let (shape, source) = (self.input.matrix(), self.input.source());
        let Affine { bits, group, .. } = self.affine;
        let packer = affine::packer(shape, source, bits, group).unwrap();
        fed(packer, &self.input.bytes, shape[1] * source.size(), 0)
    }

    /// The words of the file.
    fn words(&self) -> Vec<u32> {
        let bytes = self.get("w").bytes;
        let words = bytes.as_chunks::<4>().0.iter();
        words.map(|word| u32::from_le_bytes(*word)).collect()
    }

    /// The weight as the file holds it.
    fn stored(&self) -> Packed {
        let bits = |field: &str| {
            let tensor = self.get(field);
            assert_eq!(tensor.source(), self.affine.params, "{}", self.name);
            let stored = tensor.bytes.chunks(tensor.source().size());
            let bits = stored.map(|bytes| {
                bytes
                    .iter()
                    .rev()
                    .fold(0, |bits, byte| bits << 8 | u32::from(*byte))
            });
            bits.collect::<Vec<u32>>()
        };
        let scales = self.affine.join(&bits("scales"), &bits("biases"));
        let format = Format::Affine(self.affine);
        Packed::new(format, self.input.matrix(), self.words(), scales).unwrap()
    }
}

fn each(check: impl Fn(&Case)) {
    let golden = Golden::open("mlx_affine", 75);
    for case in &golden.cases {
        check(&Case::new(&golden, case));
    }
}

/// Scales and biases of every group.
fn params(packed: &Packed) -> (Vec<f32>, Vec<f32>) {
    let Format::Affine(affine) = packed.format else {
        panic!("{}", packed.format)
    };
    let groups = packed.shape[0] * packed.shape[1] / affine.group;
    (0..groups)
        .map(|k| affine.params(&packed.scales, k))
        .unzip()
}

/// Every width, group and type, constant, tiny, huge, one-sided and tied groups, and those with NaN and
/// infinity. Another bias, step, floor or rounding fails here, and codes chosen with what is stored.
#[test]
fn every_case_packs_to_the_words_scales_and_biases_of_mlx() {
    each(|case| {
        let packed = case.packed();
        let (scales, biases) = params(&packed);
        assert_bits(&scales, &case.get("scales").floats(), case.name);
        assert_bits(&biases, &case.get("biases").floats(), case.name);
        assert!(packed.words == case.words(), "{}: other words", case.name);
        // What packs also passes the check for what was read.
        let Packed {
            format,
            shape,
            words,
            scales,
        } = packed;
        assert_eq!(format, Format::Affine(case.affine));
        assert!(
            Packed::new(format, shape, words, scales).is_ok(),
            "{}",
            case.name
        );
    });
}

/// The file's own codes, scales and biases: loading, without a part in choosing. In half types MLX rounds
/// the product before it adds the bias; the same product and sum, rounded only once, are ours.
#[test]
fn every_file_unpacks_to_the_values_of_mlx() {
    let golden = Golden::open("mlx_affine", 75);
    let mut checked = 0;
    for case in &golden.cases {
        let case = Case::new(&golden, case);
        let packed = case.stored();
        let Affine {
            bits,
            group,
            params: source,
            ..
        } = case.affine;
        let (scales, biases) = params(&packed);
        let n = case.input.matrix().iter().product();
        let value = |k: usize, round: &dyn Fn(f32) -> f32| {
            let code = pack::code(&packed.words, bits, k) as f32;
            round(round(code * scales[k / group]) + biases[k / group])
        };
        let in_f32: Vec<_> = (0..n).map(|k| value(k, &|step| step)).collect();
        assert_bits(&in_all_types(&packed), &in_f32, case.name);

        if let Some(expected) = golden.try_get(&format!("{}/dequant", case.name)) {
            let as_mlx: Vec<_> = (0..n)
                .map(|k| value(k, &|step| source.round(step)))
                .collect();
            assert_bits(&as_mlx, &expected.floats(), case.name);
            checked += 1;
        }
    }
    // The other cases have no values in the file, or those of a product.
    assert_eq!(checked, 46);
}

/// Products with the file's own words.
#[test]
fn products_are_those_of_mlx() {
    let golden = Golden::open("mlx_affine", 75);
    let mut checked = 0;
    for case in &golden.cases {
        let case = Case::new(&golden, case);
        let Some(x) = golden.try_get(&format!("{}/x", case.name)) else {
            continue;
        };
        let Packed {
            format,
            shape,
            words,
            scales,
        } = case.stored();
        let (x, expected) = (x.floats(), case.get("y").floats());
        let mut y = vec![f32::NAN; expected.len()];
        linear(format, shape, &words, &scales, &x, &mut y);
        for (k, (y, expected)) in y.iter().zip(&expected).enumerate() {
            // Sums of 256 products of about 1.
            let off = (y - expected).abs();
            assert!(off < 1e-4, "{}: output {k} is off by {off:e}", case.name);
        }
        checked += 1;
    }
    assert_eq!(checked, 5);
}

/// A code that ends in the next word, bit by bit.
#[test]
fn codes_are_a_stream_of_bits() {
    let mut random = Random(21);
    let shape @ [o, i] = [3, 128];
    for bits in BITS {
        let words: Vec<u32> = (0..o * i / 32 * bits)
            .map(|_| random.next() as u32)
            .collect();
        let bit = |k: usize| words[k / 32] >> (k % 32) & 1;
        let expected = |k: usize| (0..bits).map(|b| bit(k * bits + b) << b).sum::<u32>();
        for group in GROUPS {
            let affine = Affine::new(bits, group, Along::Flat, Offset::Bias, DType::F32).unwrap();
            let groups = o * i / group;
            let scales = affine.join(&vec![1f32.to_bits(); groups], &vec![0; groups]);
            let packed = Packed::new(Format::Affine(affine), shape, words.clone(), scales).unwrap();
            for (k, value) in packed.dequantize().into_iter().enumerate() {
                assert_eq!(
                    pack::code(&words, bits, k),
                    expected(k),
                    "code {k} of {bits} bits"
                );
                assert_eq!(value, expected(k) as f32, "code {k} of {bits} bits");
            }
        }
    }
}

/// No golden file has zeros in place of biases. The two forms agree on paper only: both of these are
/// rounded twice.
#[test]
fn a_zero_is_subtracted_before_the_scale() {
    let mut random = Random(8);
    let shape = [4, 64];
    for params in FLOATS {
        let affine = Affine::new(4, 32, Along::Flat, Offset::Zero, params).unwrap();
        let mut stored = |about: f32| -> Vec<u32> {
            (0..8)
                .map(|_| params.to_bits(about + random.weight()))
                .collect()
        };
        let (scales, zeros) = (stored(2.0), stored(7.5));
        let words = (0..32).map(|_| random.next() as u32).collect();
        let packed = Packed::new(
            Format::Affine(affine),
            shape,
            words,
            affine.join(&scales, &zeros),
        )
        .unwrap();
        let mut told_apart = 0;
        for (k, value) in in_all_types(&packed).into_iter().enumerate() {
            let (scale, zero) = (
                params.from_bits(scales[k / 32]),
                params.from_bits(zeros[k / 32]),
            );
            let code = pack::code4(&packed.words, k) as f32;
            assert_eq!(
                value.to_bits(),
                ((code - zero) * scale).to_bits(),
                "{params} {k}"
            );
            told_apart += usize::from(value != code * scale - zero * scale);
        }
        assert!(
            params != DType::F32 || told_apart > 20,
            "{told_apart} told apart"
        );
    }
}

fn given_back(weights: &[f32], source: DType) -> Vec<f32> {
    let mut all = weights.to_vec();
    all.resize(32, *weights.last().unwrap());
    let bytes: Vec<u8> = all
        .iter()
        .flat_map(|weight| source.to_bits(*weight).to_le_bytes()[..source.size()].to_vec())
        .collect();
    let packer = affine::packer([1, 32], source, 4, 32).unwrap();
    in_all_types(&fed(packer, &bytes, bytes.len(), 0))
}

/// The table in the documentation of `affine`.
#[test]
fn every_weight_gives_back_what_is_documented() {
    let (nan, inf, max) = (f32::NAN, f32::INFINITY, f32::MAX);
    for source in FLOATS {
        let of = |weights: &[f32]| given_back(weights, source);
        let with = of(&[nan, -2.0, 1.0, 0.5]);
        let mut without = of(&[1.0, -2.0, 1.0, 0.5]);
        without[0] = -2.0;
        assert_bits(&with, &without, "a NaN");
        for bad in [
            &[nan][..],
            &[inf, 1.0],
            &[-inf, 1.0],
            &[inf],
            &[inf, -inf, nan],
        ] {
            assert_bits(&of(bad), &[nan; 32], "not finite");
        }
        for same in [1.0, -3.5, 0.25, 1e-3, -6e-8] {
            let same = source.round(same);
            assert_bits(&of(&[same]), &[same; 32], "one weight");
        }
        // f16 has no smaller magnitude than 6e-8.
        for zero in [0.0, -0.0, 4.9e-8, -4.9e-8] {
            if source != DType::F16 || zero == 0.0 {
                assert_bits(&of(&[zero]), &[0.0; 32], "zeros");
                assert!(of(&[zero, -1e-9]).iter().all(|value| *value == 0.0));
            }
        }
        let steps = of(&[1e-6, 9.5e-7, 0.0]);
        assert!((steps[1] - 9.5e-7).abs() <= 1.2e-7, "{:e}", steps[1]);
        for largest in [1.0, -7.0, 65504.0, -60000.0] {
            let largest = source.round(largest);
            assert_eq!(of(&[largest, 0.5, -0.25])[0], largest, "{source}");
        }
    }
    for source in [DType::F32, DType::Bf16] {
        let huge = source.round(max / 1.5);
        assert_bits(
            &given_back(&[huge, -huge, 1.0], source),
            &[nan; 32],
            "range",
        );
        assert_eq!(given_back(&[huge, -1.0], source)[0], huge);
    }
}

/// The golden cases do not tell: in none of them does 0 lie in the middle between two codes. It goes to the
/// even one, as `rint` does.
#[test]
fn the_code_of_zero_is_even_in_a_tie() {
    for (largest, other) in [(8.5, -6.5), (-8.5, 6.5)] {
        let mut weights = [0f32; 32];
        (weights[0], weights[31]) = (largest, other);
        let bytes: Vec<u8> = weights.iter().flat_map(|w| w.to_le_bytes()).collect();
        let packer = affine::packer([1, 32], DType::F32, 4, 32).unwrap();
        let packed = fed(packer, &bytes, bytes.len(), 0);
        // Steps of 1 put 0 at code 8.5; at code 8 they are 8.5 / 8.
        let scale = -largest.signum() * 1.0625;
        assert_eq!(params(&packed), (vec![scale], vec![largest]));
        assert_eq!(pack::code4(&packed.words, 7), 8);
    }
}

/// Rows that are whole groups may be cut anywhere.
#[test]
fn tiles_of_any_size_pack_alike() {
    let mut random = Random(7);
    for shape in [[1, 128], [7, 384], [40, 128], [3, 4224]] {
        for source in FLOATS {
            let bytes = random.weights(shape[0] * shape[1], source);
            for (bits, group) in BITS.into_iter().zip([32, 64, 128].into_iter().cycle()) {
                let packer = || affine::packer(shape, source, bits, group).unwrap();
                assert_eq!(packer().tile_rows(), 1);
                let row_bytes = shape[1] * source.size();
                let whole = fed(packer(), &bytes, row_bytes, 0);
                for tiles in [1, 2, 3] {
                    let tiled = fed(packer(), &bytes, row_bytes, tiles);
                    assert!(tiled == whole, "{shape:?} {source} {bits} bits by {tiles}");
                }
                // And they are the weight: off by half a step, at the far end by a whole one, and by the
                // rounding of scale and bias.
                let mut weights = vec![0.0; shape[0] * shape[1]];
                source.widen(&bytes, &mut weights);
                let (scales, _) = params(&whole);
                for (k, (back, weight)) in whole.dequantize().iter().zip(&weights).enumerate() {
                    let step = scales[k / group].abs();
                    let off = (back - weight).abs();
                    assert!(
                        off <= 1.1 * step + 0.02,
                        "{bits} bits {k}: off by {off:e} of {step:e}"
                    );
                }
            }
        }
    }
}

/// Both numbers and what to do.
#[test]
fn what_cannot_be_is_refused() {
    let packer = |cols, bits, group| affine::packer([2, cols], DType::Bf16, bits, group).err();
    for found in [0, 1, 7, 9, 16] {
        assert_eq!(
            packer(64, found, 64),
            Some(FormatError::Bits { found, least: 2 })
        );
    }
    for found in [0, 16, 48, 256] {
        assert_eq!(packer(64, 4, found), Some(FormatError::Group { found }));
    }
    for (cols, group, advice) in [
        (192, 128, "take groups of 64"),
        (32, 64, "groups of 32"),
        (100, 64, "dense"),
    ] {
        let refused = packer(cols, 4, group).unwrap();
        assert_eq!(refused, FormatError::Columns { cols, group });
        let said = refused.to_string();
        for part in [&cols.to_string(), &group.to_string(), advice] {
            assert!(said.contains(part), "`{said}` lacks `{part}`");
        }
    }
    let wild = Format::Affine(Affine {
        bits: 7,
        group: 64,
        along: Along::Flat,
        form: Offset::Bias,
        params: DType::F32,
    });
    let packed = Packed::new(wild, [1, 64], vec![], vec![]);
    assert_eq!(packed, Err(FormatError::Bits { found: 7, least: 1 }));
    let (rows, cols) = (usize::MAX, 64);
    let refused = affine::packer([rows, cols], DType::F32, 4, 64).err();
    assert_eq!(refused, Some(FormatError::Size { rows, cols }));
}

/// Weights without a weight: nothing to feed, nothing to divide by.
#[test]
fn empty_weights_pack_to_nothing() {
    for shape in [[0, 64], [64, 0], [0, 0]] {
        for source in FLOATS {
            let packer = affine::packer(shape, source, 3, 64).unwrap();
            let Packed {
                format,
                words,
                scales,
                ..
            } = pack_whole(packer, &[]);
            let packed = Packed::new(format, shape, words, scales).unwrap();
            assert_eq!((packed.bytes(), packed.dequantize()), (0, vec![]));
        }
    }
}
