//! HQQ's codes, scales and zeros against hqq.

mod common;

use common::{Golden, Random, Tensor, assert_bits, fed, in_all_types, size, text};
use firebox_kernels::arith::float::DType;
use firebox_kernels::arith::pack;
use firebox_kernels::format::FormatError;
use firebox_kernels::format::{Affine, Along, Format, Offset, Packed};
use firebox_kernels::formats::hqq::power::powers;
use firebox_kernels::formats::hqq::{Axis, Group, Hqq, Levels};
use firebox_kernels::packer::pack_whole;
use safetensors::Dtype;
use serde_json::Value;

const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::Bf16];

/// What a case asks for.
struct Case<'a> {
    golden: &'a Golden,
    name: &'a str,
    hqq: Hqq,
    packing: &'a str,
    input: Tensor,
}

impl<'a> Case<'a> {
    fn new(golden: &'a Golden, case: &'a Value) -> Self {
        let name = text(case, "name");
        let layer = name.starts_with("linear_");
        let levels = match case["nbits"].as_f64().unwrap() {
            1.58 => Levels::Three,
            bits => Levels::Bits(bits as usize),
        };
        let group = match &case["group_size"] {
            _ if case["channel_wise"] == Value::Bool(false) => Group::All,
            Value::Null => Group::Line,
            group => Group::Of(group.as_u64().unwrap() as usize),
        };
        let params = match case["compute_dtype"].as_str() {
            Some("bfloat16") => DType::Bf16,
            Some("float16") => DType::F16,
            _ => DType::F32,
        };
        let four = levels == Levels::Bits(4);
        let hqq = Hqq {
            levels,
            group,
            axis: if size(case, "axis") == 0 {
                Axis::First
            } else {
                Axis::Last
            },
            optimize: case["optimize"].as_bool().unwrap_or(true),
            round_zero: case["round_zero"].as_bool().unwrap_or(layer && four),
            params,
        };
        let packing = case["packing"].as_str().unwrap_or(match hqq.bits() {
            8 => "8bit_u8",
            4 => "4bit_u8",
            3 => "3bit_32",
            2 => "2bit_u8",
            _ => "1bit_u8",
        });
        Self {
            golden,
            name,
            hqq,
            packing,
            input: golden.get(&format!("inputs/{}", text(case, "input"))),
        }
    }

    fn try_get(&self, field: &str) -> Option<Tensor> {
        self.golden.try_get(&format!("{}/{field}", self.name))
    }

    fn get(&self, field: &str) -> Tensor {
        self.golden.get(&format!("{}/{field}", self.name))
    }

    fn packed(&self, tiles: usize) -> Packed {
        let (shape, source) = (self.input.matrix(), self.input.source());
        let packer = self.hqq.packer(shape, source).unwrap();
        fed(packer, &self.input.bytes, shape[1] * source.size(), tiles)
    }

    /// The codes of the file, from hqq's packing along the rows of the view in groups.
    fn codes(&self, affine: Affine) -> Vec<u32> {
        let n: usize = self.input.matrix().iter().product();
        let cols = match (self.hqq.group, affine.along) {
            (Group::All, _) => self.input.matrix()[1],
            (_, Along::Strided) => n / affine.group,
            _ => affine.group,
        };
        let stored = self.get("W_q");
        let words: Vec<u32> = match stored.dtype {
            Dtype::I32 => {
                let words = stored.bytes.as_chunks::<4>().0.iter();
                words.map(|word| u32::from_le_bytes(*word)).collect()
            }
            _ => stored.bytes.iter().map(|byte| u32::from(*byte)).collect(),
        };
        let (bits, shifts): (u32, &[u32]) = match self.packing {
            "8bit_u8" => (8, &[0]),
            "4bit_u8" => (4, &[4, 0]),
            "3bit_32" => (3, &[27, 24, 21, 18, 15, 12, 9, 6, 3, 0]),
            "2bit_u8" => (2, &[6, 4, 2, 0]),
            "1bit_u8" => (1, &[7, 6, 5, 4, 3, 2, 1, 0]),
            other => panic!("{other}"),
        };
        assert_eq!(words.len() % cols, 0, "{}", self.name);
        let of = |shift: &u32| {
            let shift = *shift;
            let codes = words
                .iter()
                .map(move |word| word >> shift & ((1 << bits) - 1));
            codes.collect::<Vec<_>>()
        };
        let mut codes: Vec<u32> = shifts.iter().flat_map(of).collect();
        assert!(codes.len() >= n, "{}", self.name);
        codes.truncate(n);
        codes
    }
}

fn affine_of(packed: &Packed) -> Affine {
    let Format::Affine(affine) = packed.format else {
        panic!("{}", packed.format)
    };
    affine
}

/// Scales and zeros of every group.
fn params(packed: &Packed) -> (Vec<f32>, Vec<f32>) {
    let affine = affine_of(packed);
    (0..affine.groups(packed.shape))
        .map(|k| affine.params(&packed.scales, k))
        .unzip()
}

/// Every width, axis, group and type, with and without the solver, groups that are constant, tiny, huge or
/// one-sided. A power for the elements after the last whole vector that differs in its last bit would not show.
#[test]
fn every_case_packs_to_the_codes_scales_and_zeros_of_hqq() {
    let golden = Golden::open("hqq", 75);
    let mut values = 0;
    for case in &golden.cases {
        let case = Case::new(&golden, case);
        let packed = case.packed(0);
        let affine = affine_of(&packed);
        assert_eq!(affine.form, Offset::Zero);
        let (scales, zeros) = params(&packed);
        assert_bits(&scales, &case.get("scale").floats(), case.name);
        assert_bits(&zeros, &case.get("zero").floats(), case.name);
        let codes = case.codes(affine);
        for (k, code) in codes.iter().enumerate() {
            let found = pack::code(&packed.words, affine.bits, k);
            assert_eq!(found, *code, "{}: code {k}", case.name);
        }

        if let Some(expected) = case.try_get("dequant") {
            // hqq rounds to the type it computes in after both steps, we do not: in `f32` the same.
            let round = |value| affine.params.round(value);
            let group = |k: usize| affine.group_of(packed.shape, &packed.scales, [0, k]);
            let found: Vec<f32> = (0..codes.len())
                .map(|k| round(round(codes[k] as f32 - zeros[group(k)]) * scales[group(k)]))
                .collect();
            assert_bits(&found, &expected.floats(), case.name);
            if affine.params == DType::F32 {
                assert_bits(&in_all_types(&packed), &expected.floats(), case.name);
            }
            values += 1;
        }
        // What packs also passes the check for what was read.
        let Packed {
            format,
            shape,
            words,
            scales,
        } = packed;
        assert!(Packed::new(format, shape, words, scales).is_ok());
    }
    assert_eq!(values, 32);
}

/// The power, in whole vectors and in what is left of a tensor after them.
#[test]
fn powers_have_the_bits_of_torch() {
    let golden = Golden::open("torch_reduce", 28);
    for name in ["pow/m0.3", "pow/tail"] {
        let mut found = golden.get(&format!("{name}/input")).floats();
        powers(&mut found);
        let expected = golden.get(&format!("{name}/output")).floats();
        assert_bits(&found, &expected, name);
    }
}

/// Solvers that see a weight in tiles stop where those do that see all of it.
#[test]
fn tiles_of_any_size_pack_alike() {
    let golden = Golden::open("hqq", 75);
    for case in &golden.cases {
        let case = Case::new(&golden, case);
        let whole = case.packed(0);
        for tiles in [1, 3] {
            assert!(case.packed(tiles) == whole, "{} by {tiles}", case.name);
        }
    }
}

/// Large enough for several jobs, chunks of sums that jobs cut, and errors that are worth a power; along both axes.
#[test]
fn large_weights_pack_alike_in_tiles() {
    let mut random = Random(31);
    for (shape, group) in [([300, 96], 64), ([130, 250], 50), ([64, 1030], 1030)] {
        for (axis, source) in [Axis::First, Axis::Last].into_iter().zip(FLOATS) {
            let hqq = Hqq {
                levels: Levels::Bits(2),
                group: Group::Of(group),
                axis,
                optimize: true,
                round_zero: false,
                params: source,
            };
            let bytes = random.weights(shape[0] * shape[1], source);
            let packer = || hqq.packer(shape, source).unwrap();
            let row_bytes = shape[1] * source.size();
            let whole = fed(packer(), &bytes, row_bytes, 0);
            for tiles in [1, 2] {
                let tiled = fed(packer(), &bytes, row_bytes, tiles);
                assert!(tiled == whole, "{shape:?} {axis:?} by {tiles}");
            }
            let mut weights = vec![0.0; shape[0] * shape[1]];
            source.widen(&bytes, &mut weights);
            let back = whole.dequantize();
            let off = back.iter().zip(&weights).map(|(b, w)| (b - w).abs());
            let mean = off.sum::<f32>() / weights.len() as f32;
            // Steps are two thirds of 1.
            assert!(mean < 0.17, "{shape:?} {axis:?}: off by {mean}");
        }
    }
}

fn given_back(weights: &[f32], optimize: bool) -> Vec<f32> {
    let bytes: Vec<u8> = weights.iter().flat_map(|w| w.to_le_bytes()).collect();
    let hqq = Hqq {
        levels: Levels::Bits(4),
        group: Group::Line,
        axis: Axis::Last,
        optimize,
        round_zero: false,
        params: DType::F32,
    };
    let packer = hqq.packer([1, weights.len()], DType::F32).unwrap();
    in_all_types(&fed(packer, &bytes, bytes.len(), 0))
}

/// The table in the documentation of `hqq`.
#[test]
fn every_weight_gives_back_what_is_documented() {
    for optimize in [false, true] {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let back = given_back(&[0.5, bad, -1.0, 0.25], optimize);
            assert!(back.iter().all(|value| value.is_nan()), "{bad}: {back:?}");
        }
        let back = given_back(&[0.5, 0.50005], optimize);
        assert!(
            back[0] == back[1] && (back[0] - 0.5).abs() < 0.01,
            "{back:?}"
        );
        // A range of 2e-4 would have steps of 1.3e-5.
        let back = given_back(&[0.0, 2e-4, 4e-5, 1e-4], optimize);
        let steps: Vec<f32> = back.iter().map(|value| (value - back[0]) * 2e4).collect();
        for (found, expected) in steps.iter().zip([0.0, 4.0, 1.0, 2.0]) {
            assert!((found - expected).abs() < 1e-3, "{steps:?}");
        }
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let hqq = |levels, group| Hqq {
        levels,
        group,
        axis: Axis::Last,
        optimize: true,
        round_zero: false,
        params: DType::F16,
    };
    let refused = |hqq: Hqq, shape| hqq.packer(shape, DType::F32).err();
    for found in [0, 7, 9] {
        let hqq = hqq(Levels::Bits(found), Group::Of(64));
        assert_eq!(
            refused(hqq, [2, 64]),
            Some(FormatError::Bits { found, least: 1 })
        );
    }
    let empty = hqq(Levels::Three, Group::Of(0));
    assert_eq!(refused(empty, [2, 64]), Some(FormatError::EmptyGroup));
    let (weights, group) = (96, 64);
    let groups = Some(FormatError::Groups { weights, group });
    assert_eq!(refused(hqq(Levels::Three, Group::Of(64)), [3, 32]), groups);
    let (rows, cols) = (usize::MAX, 64);
    let size = Some(FormatError::Size { rows, cols });
    let all = hqq(Levels::Bits(4), Group::Line);
    assert_eq!(refused(all, [rows, cols]), size);
}

/// Nothing to feed, nothing to divide by.
#[test]
fn empty_weights_pack_to_nothing() {
    for shape in [[0, 64], [64, 0], [0, 0]] {
        for (axis, group) in [
            (Axis::First, Group::Of(64)),
            (Axis::Last, Group::Of(64)),
            (Axis::First, Group::Line),
            (Axis::Last, Group::Line),
            (Axis::Last, Group::All),
        ] {
            let hqq = Hqq {
                levels: Levels::Bits(3),
                group,
                axis,
                optimize: true,
                round_zero: true,
                params: DType::F32,
            };
            let packed = pack_whole(hqq.packer(shape, DType::Bf16).unwrap(), &[]);
            assert_eq!((packed.bytes(), packed.dequantize().len()), (0, 0));
        }
    }
}
