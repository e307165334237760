//! Whole numbers against compressed-tensors.

mod common;

use common::{Golden, Random, Tensor, assert_bits, fed, in_all_types, rounded, size, text};
use firebox_kernels::arith::float::DType;
use firebox_kernels::arith::pack;
use firebox_kernels::format::FormatError;
use firebox_kernels::format::{Affine, Format, Offset, Packed};
use firebox_kernels::formats::wna16::{ScaleGroup, Wna16};
use firebox_kernels::packer::pack_whole;
use serde_json::Value;

const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::Bf16];

fn method(case: &Value) -> Wna16 {
    Wna16 {
        bits: size(case, "num_bits"),
        scale: match text(case, "strategy") {
            "group" => ScaleGroup::Group(size(case, "group_size")),
            "channel" => ScaleGroup::Channel,
            "tensor" => ScaleGroup::Tensor,
            other => panic!("{other}"),
        },
        symmetric: case["symmetric"].as_bool().unwrap(),
    }
}

fn packed(method: Wna16, shape: [usize; 2], input: &Tensor, tiles: usize) -> Packed {
    let source = input.source();
    let packer = method.packer(shape, source).unwrap();
    fed(packer, &input.bytes, shape[1] * source.size(), tiles)
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

/// `n` codes of `bits` bits, packed along bytes from the lowest bit on.
fn unpacked(bytes: &[u8], bits: usize, n: usize) -> Vec<u32> {
    let bit = |at: usize| u32::from(bytes[at / 8] >> (at % 8) & 1);
    let code = |k| (0..bits).map(|b| bit(k * bits + b) << b).sum();
    (0..n).map(code).collect()
}

/// Every strategy, width and type that the files have, with zeros and without.
#[test]
fn every_case_packs_to_the_codes_scales_and_zeros_of_compressed_tensors() {
    let golden = Golden::open("ct_int", 12);
    let (mut packs, mut zeroed) = (0, 0);
    for case in &golden.cases {
        let name = text(case, "name");
        let get = |field: &str| golden.try_get(&format!("{name}/{field}"));
        let method = method(case);
        let bits = method.bits;
        let input = golden.get(&format!("inputs/{}", text(case, "input")));
        let shape @ [o, i] = input.matrix();
        let packed = packed(method, shape, &input, 0);
        assert_eq!(Ok(packed.format), method.format(shape, input.source()));
        assert_eq!(affine_of(&packed).form, Offset::Zero);

        let (scales, zeros) = params(&packed);
        assert_bits(&scales, &get("weight_scale").unwrap().floats(), name);
        let middle = (1 << (bits - 1)) as f32;
        let groups = scales.len();
        let expected: Vec<f32> = match get("weight_zero_point") {
            None => vec![middle; groups],
            Some(stored) if stored.bytes.len() == groups => {
                let zeros = stored.bytes.iter();
                zeros.map(|zero| f32::from(*zero as i8) + middle).collect()
            }
            // Packed along the rows: a column of words holds the rows' codes of one group.
            Some(stored) => {
                let across = groups / o;
                let words = stored.bytes.as_chunks::<4>().0;
                let mut zeros = vec![0.0; groups];
                for g in 0..across {
                    let column: Vec<u8> = words[g..]
                        .iter()
                        .step_by(across)
                        .flatten()
                        .copied()
                        .collect();
                    for (r, zero) in unpacked(&column, bits, o).into_iter().enumerate() {
                        zeros[r * across + g] = zero as f32;
                    }
                }
                zeros
            }
        };
        zeroed += usize::from(!method.symmetric);
        assert_bits(&zeros, &expected, name);

        let codes = match get("weight_packed") {
            Some(stored) => {
                packs += 1;
                // Rows are whole words, so that the file's are one stream.
                unpacked(&stored.bytes, bits, o * i)
            }
            None => {
                let codes = get("weight").unwrap().bytes.into_iter();
                codes
                    .map(|code| (i32::from(code as i8) + middle as i32) as u32)
                    .collect()
            }
        };
        for (k, code) in codes.iter().enumerate() {
            let found = pack::code(&packed.words, bits, k);
            assert_eq!(found, *code, "{name}: code {k}");
        }
        let expected = get("dequant").unwrap();
        let values = rounded(&in_all_types(&packed), expected.source());
        assert_bits(&values, &expected.floats(), name);

        for tiles in [1, 3] {
            let tiled = self::packed(method, shape, &input, tiles);
            assert!(tiled == packed, "{name} by {tiles}");
        }
        let Packed {
            format,
            shape,
            words,
            scales,
        } = packed;
        assert!(Packed::new(format, shape, words, scales).is_ok());
    }
    assert_eq!((packs, zeroed), (8, 4));
}

fn given_back(weights: &[f32], symmetric: bool, source: DType) -> Vec<f32> {
    let bytes = weights.iter().flat_map(|weight| {
        let bits = source.to_bits(*weight).to_le_bytes();
        bits[..source.size()].to_vec()
    });
    let bytes: Vec<u8> = bytes.collect();
    let method = Wna16 {
        bits: 4,
        scale: ScaleGroup::Channel,
        symmetric,
    };
    let packer = method.packer([1, weights.len()], source).unwrap();
    in_all_types(&fed(packer, &bytes, bytes.len(), 0))
}

/// The table in the documentation of `wna16`.
#[test]
fn every_weight_gives_back_what_is_documented() {
    for source in FLOATS {
        for symmetric in [true, false] {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let back = given_back(&[0.5, bad, -1.0, 0.25], symmetric, source);
                assert!(back.iter().all(|value| value.is_nan()), "{bad}: {back:?}");
            }
            assert_bits(
                &given_back(&[0.0, -0.0], symmetric, source),
                &[0.0; 2],
                "zeros",
            );
            let back = given_back(&[-1.0, 0.3, 0.9, 0.0], symmetric, source);
            for (back, weight) in back.iter().zip([-1.0, 0.3, 0.9, 0.0]) {
                assert!((back - weight).abs() <= 0.08, "{back} for {weight}");
            }
        }
        let most = match source {
            DType::F16 => 65504.0,
            _ => 3.3e38,
        };
        let back = given_back(&[-most, most], false, source);
        assert!(back.iter().all(|value| value.is_nan()), "{back:?}");
    }
    // A tenth of the smallest subnormal f16 is no scale.
    let tiny = given_back(&[6e-8, -6e-8], true, DType::F16);
    assert_bits(&tiny, &[0.0; 2], "tiny");
}

/// Rows that are no whole words, groups that are none either, and one scale for all.
#[test]
fn odd_weights_pack_alike_in_tiles() {
    let mut random = Random(12);
    for (shape, scale) in [
        ([70, 33], ScaleGroup::Channel),
        ([70, 33], ScaleGroup::Group(11)),
        ([9, 250], ScaleGroup::Tensor),
        ([300, 24], ScaleGroup::Group(8)),
    ] {
        for (bits, source) in [3, 5, 6].into_iter().zip(FLOATS) {
            let method = Wna16 {
                bits,
                scale,
                symmetric: bits != 5,
            };
            let input = random.weights(shape[0] * shape[1], source);
            let packer = || method.packer(shape, source).unwrap();
            let row_bytes = shape[1] * source.size();
            let whole = fed(packer(), &input, row_bytes, 0);
            let tiled = fed(packer(), &input, row_bytes, 1);
            assert!(tiled == whole, "{shape:?} {scale:?}");
            let mut weights = vec![0.0; shape[0] * shape[1]];
            source.widen(&input, &mut weights);
            let (scales, _) = params(&whole);
            let group = affine_of(&whole).group;
            for (k, (back, weight)) in whole.dequantize().iter().zip(&weights).enumerate() {
                let off = (back - weight).abs();
                // A symmetric range has its last half step cut off.
                assert!(
                    off <= 0.6 * scales[k / group],
                    "{shape:?} {scale:?} {k}: {off}"
                );
            }
        }
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let refused = |bits, scale, shape| {
        let method = Wna16 {
            bits,
            scale,
            symmetric: true,
        };
        method.packer(shape, DType::F32).err()
    };
    for found in [0, 1, 7, 16] {
        let bits = Some(FormatError::Bits { found, least: 2 });
        assert_eq!(refused(found, ScaleGroup::Channel, [2, 64]), bits);
    }
    let empty = refused(4, ScaleGroup::Group(0), [2, 64]);
    assert_eq!(empty, Some(FormatError::EmptyGroup));
    let (cols, group) = (96, 64);
    let columns = Some(FormatError::Columns { cols, group });
    assert_eq!(refused(4, ScaleGroup::Group(64), [2, 96]), columns);
    let (rows, cols) = (usize::MAX, 64);
    let size = Some(FormatError::Size { rows, cols });
    assert_eq!(refused(4, ScaleGroup::Tensor, [rows, cols]), size);
}

/// Nothing to feed, nothing to divide by.
#[test]
fn empty_weights_pack_to_nothing() {
    for shape in [[0, 64], [64, 0], [0, 0]] {
        for scale in [
            ScaleGroup::Group(32),
            ScaleGroup::Channel,
            ScaleGroup::Tensor,
        ] {
            let method = Wna16 {
                bits: 3,
                scale,
                symmetric: false,
            };
            let packed = pack_whole(method.packer(shape, DType::Bf16).unwrap(), &[]);
            assert_eq!((packed.bytes(), packed.dequantize().len()), (0, 0));
        }
    }
}
