//! NF4 and FP4 against bitsandbytes.
//!
//! Codes are those of the CPU code of bitsandbytes 0.50, nested ones those of 0.48 (the exactly nearest):
//! `nested.rs` says why.

mod common;

use common::{
    Golden, Tensor, as_floats, assert_bits, assert_bytes, fed, in_all_types, rounded, size, text,
};
use firebox_kernels::arith::float::DType;
use firebox_kernels::format::FormatError;
use firebox_kernels::format::{Blocks, Format, Packed};
use firebox_kernels::packer::Packer;
use firebox_kernels::packer::pack_whole;
use firebox_kernels::{
    arith::pack,
    formats::{
        bits4::{
            self,
            levels::{FP4, NF4},
        },
        nested,
    },
};
use serde_json::Value;

/// What a case of `bnb_4bit` asks for.
struct Case<'a> {
    golden: &'a Golden,
    name: &'a str,
    nf4: bool,
    blocks: Blocks,
    input: Tensor,
}

impl<'a> Case<'a> {
    fn new(golden: &'a Golden, case: &'a Value) -> Self {
        let name = text(case, "name");
        let nf4 = match text(case, "quant_type") {
            "nf4" => true,
            "fp4" => false,
            other => panic!("{other}"),
        };
        let nested = case["nested"].as_bool().unwrap();
        let blocks = Blocks {
            block: size(case, "blocksize"),
            nested,
        };
        let input = golden.get(&format!("{name}/input"));
        Self {
            golden,
            name,
            nf4,
            blocks,
            input,
        }
    }

    fn get(&self, field: &str) -> Tensor {
        self.golden.get(&format!("{}/{field}", self.name))
    }

    fn format(&self) -> Format {
        if self.nf4 {
            Format::Nf4(self.blocks)
        } else {
            Format::Fp4(self.blocks)
        }
    }

    fn n(&self) -> usize {
        self.input.shape.iter().product()
    }

    fn packer(&self) -> Box<dyn Packer> {
        let Blocks { block, nested } = self.blocks;
        let make = if self.nf4 { bits4::nf4 } else { bits4::fp4 };
        make(self.input.matrix(), self.input.source(), block, nested).unwrap()
    }

    fn packed(&self) -> Packed {
        let row_bytes = self.input.matrix()[1] * self.input.source().size();
        fed(self.packer(), &self.input.bytes, row_bytes, 0)
    }

    /// The JSON that bitsandbytes stores beside the weight.
    fn state(&self) -> Value {
        let kind = if self.nf4 { "nf4" } else { "fp4" };
        let field = self.get(&format!("weight.quant_state.bitsandbytes__{kind}"));
        serde_json::from_slice(&field.bytes).unwrap()
    }

    /// The scales words of the file.
    fn stored_scales(&self) -> Vec<u32> {
        let absmax = self.get("weight.absmax");
        if !self.blocks.nested {
            return absmax
                .floats()
                .iter()
                .map(|scale| scale.to_bits())
                .collect();
        }
        let upper = self.get("weight.nested_absmax").floats();
        let offset = self.state()["nested_offset"].as_f64().unwrap();
        // The double holds an f32 exactly.
        assert_eq!(f64::from(offset as f32), offset, "{}", self.name);
        nested::from_parts(&absmax.bytes, &upper, offset as f32)
    }
}

fn each(check: impl Fn(&Case)) {
    let golden = Golden::open("bnb_4bit", 54);
    for case in &golden.cases {
        check(&Case::new(&golden, case));
    }
}

/// Codes in bitsandbytes' own bytes: another nibble order, level, bound, tie rule, reciprocal or partial
/// block fails here.
#[test]
fn every_case_packs_to_the_bytes_of_bitsandbytes() {
    each(|case| {
        let packed = case.packed();
        let filler = if case.nf4 { NF4.zero } else { FP4.zero };
        let bytes = pack::to_bitsandbytes(&packed.words, case.n(), filler);
        // Some cases store the bytes as bf16 or f32 (`quant_storage`): the same bytes.
        assert_bytes(&bytes, &case.get("weight").bytes, case.name);
        // What packs also passes the check for what was read.
        let Packed {
            format,
            shape,
            words,
            scales,
        } = packed;
        assert_eq!(format, case.format());
        assert!(
            Packed::new(format, shape, words, scales).is_ok(),
            "{}",
            case.name
        );
    });
}

#[test]
fn every_plain_case_has_the_scales_of_bitsandbytes() {
    each(|case| {
        if !case.blocks.nested {
            let expected = case.get("weight.absmax").floats();
            assert_bits(&as_floats(&case.packed().scales), &expected, case.name);
        }
    });
}

/// A mean in another order moves the offset, and with it the upper scales. The codes are those of 0.48,
/// which searches the nearest one; where 0.48 has no such case, each code has to be the one of 0.50 or a
/// nearer one.
#[test]
fn every_nested_case_has_the_scales_of_bitsandbytes() {
    let old = Golden::open("bnb_4bit_old_cpu", 39);
    let golden = Golden::open("bnb_4bit", 54);
    let (mut same, mut nearer) = (vec![], vec![]);
    for case in &golden.cases {
        let case = Case::new(&golden, case);
        if !case.blocks.nested {
            continue;
        }
        let g = case.blocks.count(case.n());
        let found = case.packed().scales;
        let found = nested::Nested::new(&found, g);
        let codes = pack::to_bytes(found.codes, g);

        let upper = case.get("weight.nested_absmax").floats();
        let offset = case.state()["nested_offset"].as_f64().unwrap() as f32;
        assert_bits(&as_floats(found.upper), &upper, case.name);
        assert_bits(&[found.offset], &[offset], case.name);

        match old.try_get(&format!("{}/weight.absmax", case.name)) {
            Some(expected) => {
                let offset = old.get(&format!("{}/nested_offset", case.name)).floats();
                assert_bits(&[found.offset], &offset, case.name);
                assert_bytes(&codes, &expected.bytes, case.name);
                same.push(case.name.to_owned());
            }
            None => {
                // The scales before they were nested.
                let Blocks { block, .. } = case.blocks;
                let plain =
                    bits4::nf4(case.input.matrix(), case.input.source(), block, false).unwrap();
                let row_bytes = case.input.matrix()[1] * case.input.source().size();
                let absmax = as_floats(&fed(plain, &case.input.bytes, row_bytes, 0).scales);
                for (k, code) in case.get("weight.absmax").bytes.into_iter().enumerate() {
                    let wanted = f64::from(absmax[k] - offset) / f64::from(upper[k / 256]);
                    let off = |code: u8| (f64::from(nested::MAP[usize::from(code)]) - wanted).abs();
                    assert!(
                        codes[k] == code || off(codes[k]) < off(code),
                        "{} {k}",
                        case.name
                    );
                }
                nearer.push(case.name.to_owned());
            }
        }
    }
    assert_eq!(
        (same.len(), nearer),
        (
            7,
            ["bs32_nf4_bf16", "storage_bf16_nf4"]
                .map(String::from)
                .to_vec()
        )
    );
}

/// The file's own codes and scales, also nested ones, give back what the library gives back: loading,
/// without a part in choosing.
#[test]
fn every_file_unpacks_to_the_values_of_bitsandbytes() {
    each(|case| {
        let words = pack::from_bitsandbytes(&case.get("weight").bytes, case.n());
        let shape = case.input.matrix();
        let packed = Packed::new(case.format(), shape, words, case.stored_scales()).unwrap();
        let values = in_all_types(&packed);
        let expected = case.get("dequant");
        assert_bits(
            &rounded(&values, expected.source()),
            &expected.floats(),
            case.name,
        );
        if let Some(expected) = case.golden.try_get(&format!("{}/dequant_f32", case.name)) {
            assert_bits(&values, &expected.floats(), case.name);
        }
        if let Some(expected) = case.golden.try_get(&format!("{}/absmax_f32", case.name)) {
            let scales = bits4::Scales::new(case.blocks, case.n(), &packed.scales);
            let found: Vec<_> = (0..case.blocks.count(case.n()))
                .map(|k| scales.get(k))
                .collect();
            assert_bits(&found, &expected.floats(), case.name);
        }
    });
}

/// What we pack gives back the same values, wherever our scales are those of the file: everywhere but in
/// the one case whose nested codes 0.50 does not choose nearest.
#[test]
fn what_is_packed_here_unpacks_to_the_values_of_bitsandbytes() {
    let golden = Golden::open("bnb_4bit", 54);
    let mut other = vec![];
    for case in &golden.cases {
        let case = Case::new(&golden, case);
        let packed = case.packed();
        let expected = case.get("dequant");
        let values = rounded(&packed.dequantize(), expected.source());
        let stored = as_floats(&case.stored_scales());
        let own = as_floats(&packed.scales);
        let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
        if own.iter().zip(&stored).all(same) {
            assert_bits(&values, &expected.floats(), case.name);
        } else {
            other.push(case.name.to_owned());
        }
    }
    assert_eq!(other, ["nested_nf4_f32"]);
}

/// Levels, bounds and their order against bitsandbytes' tables.
#[test]
fn tables_are_those_of_bitsandbytes() {
    let golden = Golden::open("bnb_4bit", 54);
    let map = |kind| {
        golden
            .get(&format!("basic_{kind}_f32/weight.quant_map"))
            .floats()
    };
    assert_bits(&NF4.levels, &map("nf4"), "nf4 levels");
    assert_bits(&FP4.levels, &map("fp4"), "fp4 levels");
    assert_bits(
        &NF4.bounds,
        &golden.get("bounds/nf4").floats(),
        "nf4 bounds",
    );
    assert_bits(
        &FP4.bounds,
        &golden.get("bounds/fp4").floats(),
        "fp4 bounds",
    );
    let order: Vec<_> = golden
        .get("order/fp4")
        .bytes
        .as_chunks::<8>()
        .0
        .iter()
        .map(|b| b[0])
        .collect();
    assert_bytes(&FP4.ascending, &order, "fp4 order");
    let golden = Golden::open("bnb_blockwise8", 19);
    assert_bits(
        &nested::MAP,
        &golden.get("code/dynamic").floats(),
        "nested map",
    );
}

/// 8-bit codes of bitsandbytes 0.50 over all block sizes: read, they give its values; ours are those, or
/// nearer. 0.50 looks codes up in 65536 bins, so that close to 0 it is not nearest.
#[test]
fn eight_bit_codes_are_read_alike_and_chosen_no_worse() {
    let golden = Golden::open("bnb_blockwise8", 19);
    let mut checked = 0;
    for case in golden
        .cases
        .iter()
        .filter(|case| text(case, "code") == "dynamic")
    {
        let (name, block) = (text(case, "name"), size(case, "blocksize"));
        let get = |field: &str| golden.get(&format!("{name}/{field}"));
        let (input, theirs) = (get("input").floats(), get("q").bytes);
        let (upper, expected) = (get("absmax").floats(), get("dequant"));

        let value = |code: u8| nested::MAP[usize::from(code)];
        let values: Vec<_> = theirs
            .iter()
            .enumerate()
            .map(|(k, code)| value(*code) * upper[k / block])
            .collect();
        assert_bits(
            &rounded(&values, expected.source()),
            &expected.floats(),
            name,
        );

        let mut same = 0;
        for (k, (input, theirs)) in input.iter().zip(&theirs).enumerate() {
            if upper[k / block] == 0.0 {
                same += 1;
                continue;
            }
            let ours = nested::nearest(input / upper[k / block]);
            let wanted = f64::from(*input) / f64::from(upper[k / block]);
            let off = |code: u8| (f64::from(value(code)) - wanted).abs();
            same += usize::from(ours == *theirs);
            // Quotients are rounded to f32 before the search.
            assert!(
                off(ours) <= off(*theirs) + 1e-7,
                "{name}: code {ours} of value {k}"
            );
        }
        // Midpoints were chosen to differ, and 0.50 gives a 0 the smallest positive code.
        let made_to_differ = matches!(name, "codes_and_mids" | "zeros");
        assert!(
            made_to_differ || same * 100 >= theirs.len() * 97,
            "{name}: {same} same"
        );
        checked += 1;
    }
    assert_eq!(checked, 15);
}

/// Each value of the map is nearest to itself, and what lies as far from two belongs to the lower one.
#[test]
fn the_nearest_code_is_found_and_ties_go_down() {
    for (k, value) in nested::MAP.iter().enumerate() {
        assert_eq!(usize::from(nested::nearest(*value)), k);
    }
    let mut ties = 0;
    for (k, [low, high]) in nested::MAP.array_windows::<2>().enumerate() {
        let middle = (f64::from(*low) + f64::from(*high)) / 2.0;
        // Where the middle is an f32, that is; the others have a nearest one.
        if f64::from(middle as f32) == middle {
            assert_eq!(usize::from(nested::nearest(middle as f32)), k, "{middle:e}");
            ties += 1;
        }
    }
    assert!(ties > 50, "{ties} ties");
    assert_eq!(nested::nearest(-2.0), 0);
    assert_eq!(nested::nearest(2.0), 255);
    assert_eq!(nested::nearest(f32::NAN), 0);
}

/// The golden cases do not tell: a plain sum gives the same offset in all of them. Here it fails.
#[test]
fn the_offset_is_the_mean_of_torch() {
    let golden = Golden::open("torch_reduce", 28);
    for n in [100, 1000, 4097, 16384, 40000] {
        let values = golden.get(&format!("all/{n}/input")).floats();
        let words = nested::quantize(&values);
        let offset = nested::Nested::new(&words, n).offset;
        assert_bits(
            &[offset],
            &golden.get(&format!("all/{n}/mean")).floats(),
            "offset",
        );
    }
}

/// The golden cases do not tell: in none of them does the last bit of a scaled weight decide. Weights
/// next to a bound, in a full and in a partial block.
#[test]
fn a_full_block_multiplies_and_a_partial_one_divides() {
    let mut random = common::Random(13);
    let mut told_apart = 0;
    for _ in 0..2000 {
        let absmax = 1.0 + random.weight().abs();
        let bound = NF4.bounds[random.next() as usize % 15];
        for weight in [
            (bound * absmax).next_down(),
            bound * absmax,
            (bound * absmax).next_up(),
        ] {
            let codes = [NF4.code(weight * (1.0 / absmax)), NF4.code(weight / absmax)];
            told_apart += usize::from(codes[0] != codes[1]);
            for (n, code) in [(32, codes[0]), (31, codes[1])] {
                let mut weights = vec![0.0; n];
                (weights[0], weights[1]) = (absmax, weight);
                let bytes: Vec<u8> = weights.iter().flat_map(|w: &f32| w.to_le_bytes()).collect();
                let packer = bits4::nf4([1, n], DType::F32, 32, false).unwrap();
                let packed = fed(packer, &bytes, 4 * n, 0);
                assert_eq!(
                    pack::code4(&packed.words, 1),
                    u32::from(code),
                    "{weight:e} of {n}"
                );
            }
        }
    }
    assert!(told_apart > 100, "{told_apart} told apart");
}

/// Scales that are all alike leave nothing under the offset: no division by zero may show.
#[test]
fn equal_scales_nest_exactly() {
    let words = nested::quantize(&[0.5; 300]);
    let nested = nested::Nested::new(&words, 300);
    assert!((0..300).all(|k| nested.get(k) == 0.5));
    assert_eq!(nested::quantize(&[]), [0]);
}

/// The table in the documentation of `blocks`: what comes back, of what is no number, huge or tiny, in
/// full and partial blocks. Would catch `-inf` that comes back as itself, and a finite weight that
/// survives beside it.
#[test]
fn every_weight_gives_back_what_is_documented() {
    let (nan, inf, max) = (f32::NAN, f32::INFINITY, f32::MAX);
    let back = |packer: fn(_, _, _, _) -> _, n, weights: &[f32], nested| {
        let mut all = vec![0.0; n];
        all[..weights.len()].copy_from_slice(weights);
        let bytes: Vec<u8> = all.iter().flat_map(|weight| weight.to_le_bytes()).collect();
        let packer: Result<Box<dyn Packer>, FormatError> = packer([1, n], DType::F32, 32, nested);
        in_all_types(&fed(packer.unwrap(), &bytes, 4 * n, 0))
    };
    for packer in [bits4::nf4, bits4::fp4] {
        for n in [32, 31] {
            let of = |weights: &[f32]| back(packer, n, weights, false);
            assert_bits(&of(&[nan, inf, -inf, 1.0]), &vec![nan; n], "NaN");

            let mut expected = vec![nan; n];
            (expected[0], expected[2]) = (inf, inf);
            assert_bits(&of(&[inf, 1.0, -inf, -max]), &expected, "infinity");
            expected[0] = nan;
            assert_bits(&of(&[-0.0, 1.0, -inf, max]), &expected, "-infinity");

            assert_bits(&of(&[-0.0]), &vec![0.0; n], "zeros");

            let huge = of(&[max, -max, max / 2.0]);
            assert_bits(&huge[..2], &[max, -max], "huge");
            assert!(huge.iter().all(|value| value.is_finite()), "{huge:?}");

            // A full block keeps its own scale, and scales as if it were 1e-38.
            let m = 5e-39;
            let tiny = of(&[m, -m])[0];
            let expected = if n == 32 { 0.5 * m } else { m };
            assert!((tiny - expected).abs() < 0.2 * expected, "{tiny:e}");
            assert!(of(&[1e-45]).iter().all(|value| *value == 0.0));
        }
        // Three blocks; the last one is partial and all zeros.
        for bad in [&[nan][..], &[inf], &[-inf]] {
            assert_bits(&back(packer, 70, bad, true), &[nan; 70], "nested");
            let plain = back(packer, 70, bad, false);
            assert_bits(&plain[32..], &[0.0; 38], "the blocks beside");
        }
        // A sum of scales that overflows, though each is finite.
        let mut huge = [0.0; 70];
        huge.iter_mut().step_by(32).for_each(|weight| *weight = max);
        assert_bits(&back(packer, 70, &huge, true), &[nan; 70], "overflow");
    }
}

/// Blocks run on through rows, so that a tile boundary in the wrong place moves every scale after it.
#[test]
fn tiles_of_any_size_pack_alike() {
    let mut random = common::Random(7);
    let shapes = [
        [1, 1],
        [7, 33],
        [5, 65],
        [64, 3],
        [100, 48],
        [3, 4097],
        [33, 128],
        [257, 40],
        [2, 32],
    ];
    for shape in shapes {
        for source in [DType::F32, DType::F16, DType::Bf16] {
            let bytes = random.weights(shape[0] * shape[1], source);
            for (block, nested) in [(32, false), (64, true), (512, false), (4096, true)] {
                for make in [bits4::nf4, bits4::fp4] {
                    let packer = || make(shape, source, block, nested).unwrap();
                    let row_bytes = shape[1] * source.size();
                    let whole = fed(packer(), &bytes, row_bytes, 0);
                    for tiles in [1, 2, 3] {
                        let tiled = fed(packer(), &bytes, row_bytes, tiles);
                        assert!(tiled == whole, "{shape:?} {source:?} {block} by {tiles}");
                    }
                }
            }
        }
    }
}

/// The rows that stay together are as few as hold whole blocks.
#[test]
fn tiles_are_as_small_as_blocks_allow() {
    let rows = |shape, block| {
        bits4::nf4(shape, DType::Bf16, block, false)
            .unwrap()
            .tile_rows()
    };
    assert_eq!(rows([4096, 4096], 64), 1);
    assert_eq!(rows([4096, 96], 64), 2);
    assert_eq!(rows([4096, 33], 64), 64);
    assert_eq!(rows([16, 33], 64), 16);
    assert_eq!(rows([0, 33], 64), 1);
    assert_eq!(rows([8, 0], 64), 1);
}

#[test]
fn blocks_that_do_not_exist_are_refused() {
    for found in [0, 16, 48, 8192] {
        let error = FormatError::Block {
            format: "nf4",
            found,
            min: 32,
            max: 4096,
        };
        let refused = bits4::nf4([1, 64], DType::F32, found, false).err();
        assert_eq!(refused, Some(error.clone()));
        let format = Format::Nf4(Blocks {
            block: found,
            nested: false,
        });
        assert_eq!(
            Packed::new(format, [1, 64], vec![], vec![]).err(),
            Some(error)
        );
    }
    let shape = [usize::MAX, 2];
    let refused = bits4::nf4(shape, DType::F32, 64, false).err();
    assert_eq!(
        refused,
        Some(FormatError::Size {
            rows: usize::MAX,
            cols: 2
        })
    );
}

/// Weights without a weight: nothing to feed, nothing to divide by.
#[test]
fn empty_weights_pack_to_nothing() {
    for shape in [[0, 64], [64, 0], [0, 0]] {
        for nested in [false, true] {
            let packer = bits4::nf4(shape, DType::F16, 64, nested).unwrap();
            let packed = pack_whole(packer, &[]);
            assert_eq!(packed.scales.len(), usize::from(nested));
            assert!(Packed::new(packed.format, shape, packed.words, packed.scales).is_ok());
        }
    }
}

/// bitsandbytes' bytes there and back, for every count up to three words: odd counts end in the filler.
#[test]
fn bytes_go_there_and_back() {
    let mut random = common::Random(3);
    for n in 0..=24 {
        let bytes: Vec<u8> = (0..n).map(|_| random.next() as u8 & 0xf).collect();
        let mut pairs: Vec<u8> = bytes
            .chunks(2)
            .map(|pair| pair[0] << 4 | pair.get(1).unwrap_or(&9))
            .collect();
        let words = pack::from_bitsandbytes(&pairs, n);
        assert_eq!(words.len(), n.div_ceil(8));
        for (k, code) in bytes.iter().enumerate() {
            assert_eq!(pack::code4(&words, k), u32::from(*code), "code {k} of {n}");
        }
        assert_eq!(pack::to_bitsandbytes(&words, n, 9), pairs, "{n} codes");
        // What stands behind the last code does not reach the words.
        if n % 2 == 1 {
            *pairs.last_mut().unwrap() ^= 0xf;
            assert_eq!(pack::from_bitsandbytes(&pairs, n), words, "{n} codes");
        }
    }
}
