//! FP8 against PyTorch's casts, compressed-tensors and transformers.

mod common;

use common::{
    Golden, as_floats, assert_bits, assert_bytes, fed, in_all_types, rounded, size, text,
};
use firebox_kernels::arith::float::DType;
use firebox_kernels::arith::pack;
use firebox_kernels::format::FormatError;
use firebox_kernels::format::{Format, Fp8Kind, Packed, Tile};
use firebox_kernels::formats::fp8::{self, Recipe};
use firebox_kernels::packer::pack_whole;
use half::{bf16, f16};
use serde_json::Value;

const KINDS: [(Fp8Kind, &str); 2] = [(Fp8Kind::E4m3, "e4m3fn"), (Fp8Kind::E5m2, "e5m2")];

fn decode(kind: Fp8Kind, code: u8) -> f32 {
    kind.values()[usize::from(code)]
}

/// All f16 and bf16 patterns, and f32 around every tie: rounding half up, losing a subnormal, or another
/// answer to what is too large fails here.
#[test]
fn casts_have_the_bytes_of_torch() {
    let golden = Golden::open("fp8_casts", 9);
    let f16s: Vec<f32> = (0..=u16::MAX)
        .map(|bits| f16::from_bits(bits).to_f32())
        .collect();
    let bf16s: Vec<f32> = (0..=u16::MAX)
        .map(|bits| bf16::from_bits(bits).to_f32())
        .collect();
    let mut checked = 0;
    for (kind, dst) in KINDS {
        for src in ["f16", "bf16", "f32"] {
            let name = format!("{src}_{dst}");
            assert!(
                golden.cases.iter().any(|case| text(case, "name") == name),
                "{name}"
            );
            let f32s;
            let input = match src {
                "f16" => &f16s,
                "bf16" => &bf16s,
                _ => {
                    f32s = golden.get(&format!("{name}/input")).floats();
                    &f32s
                }
            };
            let bytes: Vec<u8> = input.iter().map(|value| kind.encode(*value)).collect();
            assert_bytes(&bytes, &golden.get(&format!("{name}/bytes")).bytes, &name);
            // What the packer does: clamp, then cast. (E4M3 saturates by itself.) PyTorch's clamp of
            // bf16 gives every NaN a sign, which is of no use to anyone.
            if let Some(expected) = golden.try_get(&format!("{name}/bytes_sat")) {
                let most = kind.largest();
                let without_nan_sign = |(k, byte): (usize, u8)| match input[k].is_nan() {
                    true => byte & 0x7f,
                    false => byte,
                };
                let clamped = input
                    .iter()
                    .map(|value| kind.encode(value.clamp(-most, most)));
                let found: Vec<u8> = clamped.enumerate().map(without_nan_sign).collect();
                let expected: Vec<u8> = expected
                    .bytes
                    .into_iter()
                    .enumerate()
                    .map(without_nan_sign)
                    .collect();
                assert_bytes(&found, &expected, &name);
            }
            checked += 1;
        }
    }
    // The other three are casts of MLX and to E8M0, which nothing here computes.
    assert_eq!(checked, 6);
}

#[test]
fn every_byte_decodes_as_in_torch() {
    let golden = Golden::open("fp8_casts", 9);
    for (kind, name) in KINDS {
        assert_bits(
            kind.values(),
            &golden.get(&format!("decode/{name}")).floats(),
            name,
        );
    }
}

/// Every value that is a number is its own cast.
#[test]
fn values_cast_to_their_codes() {
    for (kind, name) in KINDS {
        for code in 0..=255 {
            let value = decode(kind, code);
            assert!(
                value.is_nan() || kind.encode(value) == code,
                "{name} {code:#x}"
            );
        }
    }
}

struct Case<'a> {
    name: &'a str,
    tile: Tile,
    recipe: Recipe,
    scale: &'a str,
}

impl<'a> Case<'a> {
    fn new(case: &'a Value) -> Self {
        let name = text(case, "name");
        let side = |key: &str, k: usize| case[key][k].as_u64().unwrap() as usize;
        if name.starts_with("hf_") {
            let tile = match &case["block"] {
                Value::Null => Tile::Tensor,
                _ => Tile::Block {
                    rows: side("block", 0),
                    cols: side("block", 1),
                },
            };
            let ue8m0 = case["scale_fmt"] == "ue8m0";
            return Self {
                name,
                tile,
                recipe: Recipe::FineGrained { ue8m0 },
                scale: "weight_scale_inv",
            };
        }
        let tile = match text(case, "strategy") {
            "tensor" => Tile::Tensor,
            "channel" => Tile::Row,
            "group" => Tile::Block {
                rows: 1,
                cols: size(case, "group_size"),
            },
            "block" => {
                let key = "block_structure";
                Tile::Block {
                    rows: side(key, 0),
                    cols: side(key, 1),
                }
            }
            other => panic!("{other}"),
        };
        Self {
            name,
            tile,
            recipe: Recipe::CompressedTensors,
            scale: "weight_scale",
        }
    }
}

/// Codes and scales to the bit. A division where there is a multiplication, a step not rounded to the
/// weight's own type, or a tile at the edge that is cut wrong fails here.
#[test]
fn scaled_weights_have_the_bytes_of_their_libraries() {
    let golden = Golden::open("fp8_scaled", 15);
    let mut dequantized = 0;
    for parameters in &golden.cases {
        let case = Case::new(parameters);
        let name = case.name;
        let get = |field: &str| golden.get(&format!("{name}/{field}"));
        let input = golden.get(&format!("inputs/{}", text(parameters, "input")));
        let (shape, source) = (input.matrix(), input.source());
        let n = shape[0] * shape[1];

        let packer = fp8::packer(shape, source, Fp8Kind::E4m3, case.tile, case.recipe).unwrap();
        let packed = fed(packer, &input.bytes, shape[1] * source.size(), 0);
        assert_bytes(
            &pack::to_bytes(&packed.words, n),
            &get("weight").bytes,
            name,
        );

        let stored = get(case.scale);
        let scales = match stored.dtype {
            // The exponent alone, biased by 127; none of these is 2^-127.
            safetensors::Dtype::F8_E8M0 => stored
                .bytes
                .iter()
                .map(|e| f32::from_bits(u32::from(*e) << 23))
                .collect(),
            _ => stored.floats(),
        };
        assert_bits(&as_floats(&packed.scales), &scales, name);
        assert_eq!(
            packed.scales.len(),
            packed.format.scales_len(shape),
            "{name}"
        );

        // The file's own bytes and scales.
        let words = pack::from_bytes(&get("weight").bytes);
        let scales = scales.iter().map(|scale| scale.to_bits()).collect();
        let loaded = Packed::new(packed.format, shape, words, scales).unwrap();
        for field in ["dequant", "dequant_f32", "dequant_bf16"] {
            if let Some(expected) = golden.try_get(&format!("{name}/{field}")) {
                let values = rounded(&in_all_types(&loaded), expected.source());
                assert_bits(&values, &expected.floats(), name);
                dequantized += 1;
            }
        }
    }
    // The whole-matrix case of transformers stores no values.
    assert_eq!(dequantized, 14);
}

/// Rows that do not fill words, tiles that do not divide the weight, a scale that needs the whole weight.
#[test]
fn tiles_of_any_size_pack_alike() {
    let mut random = common::Random(11);
    let tiles = [
        Tile::Tensor,
        Tile::Row,
        Tile::Block { rows: 3, cols: 5 },
        Tile::Block { rows: 4, cols: 32 },
        Tile::Block {
            rows: 128,
            cols: 128,
        },
        Tile::Block {
            rows: 1000,
            cols: usize::MAX,
        },
    ];
    let recipes = [
        Recipe::CompressedTensors,
        Recipe::FineGrained { ue8m0: true },
        Recipe::Fixed(0.003),
    ];
    for shape in [
        [1, 1],
        [7, 33],
        [64, 3],
        [130, 48],
        [3, 4097],
        [9, 5000],
        [257, 130],
    ] {
        for source in [DType::F32, DType::F16, DType::Bf16] {
            let bytes = random.weights(shape[0] * shape[1], source);
            for (kind, _) in KINDS {
                for tile in tiles {
                    for recipe in recipes {
                        let packer = || fp8::packer(shape, source, kind, tile, recipe).unwrap();
                        let row_bytes = shape[1] * source.size();
                        let whole = fed(packer(), &bytes, row_bytes, 0);
                        assert_plain(&whole, &bytes, source, kind, tile, recipe);
                        for tiles in [1, 2] {
                            let tiled = fed(packer(), &bytes, row_bytes, tiles);
                            assert!(tiled == whole, "{shape:?} {source:?} {tile} by {tiles}");
                        }
                    }
                }
            }
        }
    }
}

/// The same codes, weight by weight, from the scales that were stored; and no finite weight that packs
/// to what is not finite.
fn assert_plain(
    packed: &Packed,
    bytes: &[u8],
    source: DType,
    kind: Fp8Kind,
    tile: Tile,
    recipe: Recipe,
) {
    let shape @ [o, i] = packed.shape;
    let mut weights = vec![0.0; o * i];
    source.widen(bytes, &mut weights);
    let ([rows, cols], [_, grid_cols]) = (tile.sides(shape), tile.grid(shape));
    let values = packed.dequantize();
    for (k, weight) in weights.iter().enumerate() {
        let scale = packed.scales[k / i / rows * grid_cols + k % i / cols];
        let scale = f32::from_bits(scale);
        let scaled = match recipe {
            Recipe::CompressedTensors => source.round(weight / scale),
            // A power of two, so that its inverse is exact.
            Recipe::FineGrained { .. } => weight * (1.0 / scale),
            Recipe::Fixed(fixed) => {
                assert_eq!(scale, fixed);
                weight / scale
            }
        };
        let code = kind.encode(scaled.clamp(-kind.largest(), kind.largest()));
        assert_eq!(
            pack::code8(&packed.words, k),
            u32::from(code),
            "{shape:?} {tile} weight {k}"
        );
        assert_eq!(
            values[k].to_bits(),
            (decode(kind, code) * scale).to_bits(),
            "value {k}"
        );
        assert!(values[k].is_finite());
    }
}

fn packed(weights: &[f32], kind: Fp8Kind, recipe: Recipe) -> (Vec<u8>, f32) {
    let bytes: Vec<u8> = weights
        .iter()
        .flat_map(|weight| weight.to_le_bytes())
        .collect();
    let packer = fp8::packer([1, weights.len()], DType::F32, kind, Tile::Tensor, recipe).unwrap();
    let packed = fed(packer, &bytes, bytes.len(), 0);
    (
        pack::to_bytes(&packed.words, weights.len()),
        f32::from_bits(packed.scales[0]),
    )
}

/// The table in the documentation of `fp8`.
#[test]
fn what_is_not_a_number_packs_as_documented() {
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let fine = Recipe::FineGrained { ue8m0: false };
    for (kind, most) in [(Fp8Kind::E4m3, 0x7e), (Fp8Kind::E5m2, 0x7b)] {
        let (codes, scale) = packed(&[1.0, nan], kind, Recipe::CompressedTensors);
        assert!(scale.is_nan() && codes.iter().all(|code| decode(kind, *code).is_nan()));

        let (codes, scale) = packed(&[1.0, nan], kind, fine);
        assert!(scale == 1.0 && decode(kind, codes[0]) == 1.0 && decode(kind, codes[1]).is_nan());

        for recipe in [Recipe::CompressedTensors, fine] {
            let (codes, scale) = packed(&[1.0, -inf], kind, recipe);
            assert!(
                scale == inf && codes[0] == 0 && decode(kind, codes[1]).is_nan(),
                "{codes:?}"
            );
        }

        let (codes, scale) = packed(&[nan, inf, -inf, 1e30], kind, Recipe::Fixed(2.0));
        assert!(scale == 2.0 && decode(kind, codes[0]).is_nan());
        assert_eq!(codes[1..], [most, 0x80 | most, most]);
    }
}

/// Tiles whose scale would be 0, or its inverse infinite: finite weights stay finite.
#[test]
fn tiny_tiles_stay_finite() {
    for recipe in [
        Recipe::CompressedTensors,
        Recipe::FineGrained { ue8m0: false },
        Recipe::FineGrained { ue8m0: true },
    ] {
        for amax in [0.0, f32::from_bits(1), 1e-40, 1e-37, 1.3e-36, 1e-30] {
            for (kind, _) in KINDS {
                let (codes, scale) = packed(&[0.0, amax, -amax], kind, recipe);
                let values = codes.iter().map(|code| decode(kind, *code) * scale);
                for (value, weight) in values.zip([0.0, amax, -amax]) {
                    // A tile that is taken for zero is off by what it holds.
                    assert!(
                        (value - weight).abs() <= amax,
                        "{recipe:?} {amax:e}: {value:e}"
                    );
                }
            }
        }
    }
}

/// A scale that lies above a power of two by less than its f32 logarithm can tell stays at that power;
/// one that lies clearly above goes up.
#[test]
fn power_of_two_scales_round_their_logarithm_first() {
    let recipe = Recipe::FineGrained { ue8m0: true };
    let power = 1.0 / 512.0;
    for (above, expected) in [(1.0, power), (1.0 + 2e-7, power), (1.001, 2.0 * power)] {
        let (_, scale) = packed(&[448.0 * power * above], Fp8Kind::E4m3, recipe);
        assert_eq!(scale, expected, "{above}");
    }
}

#[test]
fn what_cannot_scale_is_refused() {
    let refused = |tile, recipe| {
        fp8::packer([4, 4], DType::F32, Fp8Kind::E4m3, tile, recipe)
            .err()
            .unwrap()
    };
    for found in [0.0, -1.0, f32::INFINITY] {
        assert_eq!(
            refused(Tile::Row, Recipe::Fixed(found)),
            FormatError::Scale { found }
        );
    }
    assert!(matches!(
        refused(Tile::Row, Recipe::Fixed(f32::NAN)),
        FormatError::Scale { found } if found.is_nan()
    ));
    let tile = Tile::Block { rows: 0, cols: 4 };
    let error = FormatError::Tile { rows: 0, cols: 4 };
    assert_eq!(refused(tile, Recipe::CompressedTensors), error);
    let format = Format::Fp8(Fp8Kind::E4m3, tile);
    assert_eq!(
        Packed::new(format, [4, 4], vec![0; 4], vec![]).err(),
        Some(error)
    );
}

#[test]
fn empty_weights_pack_to_nothing() {
    for shape in [[0, 8], [8, 0]] {
        for tile in [
            Tile::Tensor,
            Tile::Row,
            Tile::Block {
                rows: 128,
                cols: 128,
            },
        ] {
            let recipe = Recipe::CompressedTensors;
            let packer = fp8::packer(shape, DType::Bf16, Fp8Kind::E4m3, tile, recipe).unwrap();
            let Packed {
                format,
                words,
                scales,
                ..
            } = pack_whole(packer, &[]);
            assert!(words.is_empty());
            assert!(
                Packed::new(format, shape, words, scales)
                    .unwrap()
                    .dequantize()
                    .is_empty()
            );
        }
    }
}

fn given_back(
    weights: &[f32],
    kind: Fp8Kind,
    tile: Tile,
    recipe: Recipe,
    source: DType,
) -> Vec<f32> {
    let bytes: Vec<u8> = match source {
        DType::F32 => weights.iter().flat_map(|w| w.to_le_bytes()).collect(),
        DType::F16 => (weights.iter())
            .flat_map(|w| f16::from_f32(*w).to_le_bytes())
            .collect(),
        DType::Bf16 => (weights.iter())
            .flat_map(|w| bf16::from_f32(*w).to_le_bytes())
            .collect(),
    };
    let packer = fp8::packer([1, weights.len()], source, kind, tile, recipe).unwrap();
    in_all_types(&fed(packer, &bytes, bytes.len(), 0))
}

/// The lists in the documentation of `fp8`: what comes back, of what is no number, huge or tiny. Would
/// catch another answer, and a zero that loses its sign.
#[test]
fn every_weight_gives_back_what_is_documented() {
    use DType::{Bf16, F16, F32};
    let (nan, inf, max) = (f32::NAN, f32::INFINITY, f32::MAX);
    let max_bf16 = f32::from_bits(0x7f7f_0000);
    let plain = Recipe::CompressedTensors;
    let fine = Recipe::FineGrained { ue8m0: false };
    let ue8m0 = Recipe::FineGrained { ue8m0: true };
    let half = Recipe::Fixed(0.5);
    let check = |kinds: &[Fp8Kind], recipe, source: DType, weights: [f32; 3], back: [f32; 3]| {
        for kind in kinds {
            // A scale of a row and of the whole are the same here.
            for tile in [Tile::Tensor, Tile::Row] {
                let values = given_back(&weights, *kind, tile, recipe, source);
                let what = format!("{kind} {recipe:?} {source:?} {weights:?}");
                assert_bits(&rounded(&values, source), &back, &what);
            }
        }
    };

    let both = &[Fp8Kind::E4m3, Fp8Kind::E5m2][..];
    let (e4m3, e5m2) = both.split_at(1);
    for source in [F32, F16, Bf16] {
        check(both, plain, source, [nan, 1.0, 0.0], [nan; 3]);
        for recipe in [fine, ue8m0] {
            check(both, recipe, source, [nan, 1.0, -0.0], [nan, 1.0, -0.0]);
        }
        check(
            e4m3,
            fine,
            source,
            [nan, 500.0, 1e-3],
            [nan, 448.0, 1.0 / 512.0],
        );
        for recipe in [plain, fine, ue8m0] {
            check(both, recipe, source, [inf, -inf, 1.0], [nan; 3]);
        }
        check(both, half, source, [nan, 1.0, -0.0], [nan, 1.0, -0.0]);
        check(
            e4m3,
            half,
            source,
            [inf, -inf, -1e4],
            [224.0, -224.0, -224.0],
        );
        check(
            e5m2,
            half,
            source,
            [inf, -inf, 3e4],
            [28672.0, -28672.0, 28672.0],
        );
    }

    check(both, plain, F32, [max, -max, 0.0], [max, -max, 0.0]);
    check(both, plain, F16, [65504.0, -65504.0, 0.0], [inf, -inf, 0.0]);
    check(both, plain, Bf16, [max_bf16, 0.0, -0.0], [inf, 0.0, -0.0]);
    check(both, fine, F32, [max, -max, 0.0], [inf, -inf, 0.0]);
    check(both, fine, F16, [65504.0, 0.0, -0.0], [65504.0, 0.0, -0.0]);
    check(
        both,
        fine,
        Bf16,
        [max_bf16, 0.0, -0.0],
        [max_bf16, 0.0, -0.0],
    );
    for (source, largest) in [(F32, max), (F16, 65504.0), (Bf16, max_bf16)] {
        check(both, ue8m0, source, [largest, 0.0, -0.0], [inf, 0.0, -0.0]);
    }

    // 2^-20 is half a smallest step of E4M3 under the epsilon of f16.
    let step = 1.0 / 1024.0 / 1024.0;
    check(e4m3, plain, F16, [step, -step, 0.0], [0.0, -0.0, 0.0]);
    check(
        e4m3,
        plain,
        F16,
        [2.0 * step, -step, 0.0],
        [2.0 * step, -0.0, 0.0],
    );
    for recipe in [fine, ue8m0] {
        check(e4m3, recipe, F32, [1.3e-36, -1e-40, 0.0], [0.0, -0.0, 0.0]);
        check(e5m2, recipe, F32, [1.6e-34, -1e-40, 0.0], [0.0, -0.0, 0.0]);
    }
    let step = 1.0 / 1024.0;
    check(e4m3, half, F32, [step / 2.0, -step, 0.0], [0.0, -step, 0.0]);
    let step = step / 128.0;
    check(e5m2, half, F32, [step / 2.0, -step, 0.0], [0.0, -step, 0.0]);
}
