//! Blocks of GGUF files against llama.cpp and its Python package.

mod common;

use common::{Golden, Random, assert_bits, assert_bytes, fed, in_all_types, size, text};
use firebox_kernels::arith::float::DType;
use firebox_kernels::arith::pack;
use firebox_kernels::compare;
use firebox_kernels::format::{Format, FormatError, Gguf, Packed};
use firebox_kernels::formats::gguf;
use firebox_kernels::linear;
use serde_json::Value;

fn kind_of(case: &Value) -> Gguf {
    let number = size(case, "ggml_type");
    Gguf::from_number(number as u32).unwrap_or_else(|| panic!("type {number}"))
}

/// A weight of `cols` columns from the bytes of its rows.
fn stored(kind: Gguf, cols: usize, raw: &[u8]) -> Packed {
    let shape = [raw.len() / kind.row_bytes(cols), cols];
    Packed::new(Format::Gguf(kind), shape, pack::from_bytes(raw), Vec::new()).unwrap()
}

/// Random bits in every field: scales, signs, indices into lists. A wrong order of bits, another grid entry and another
/// order of rounding fail here.
#[test]
fn every_type_dequantizes_to_the_bits_of_the_python_package() {
    let golden = Golden::open("gguf", 24);
    let mut seen = Vec::new();
    for case in &golden.cases {
        let name = text(case, "name");
        if name == "BF16" {
            continue;
        }
        let kind = kind_of(case);
        assert_eq!(kind.name(), name.to_lowercase());
        let sizes = [size(case, "block"), size(case, "bytes")];
        assert_eq!([kind.block(), kind.bytes()], sizes, "{kind}");
        let (raw, dequant) = (
            golden.get(&format!("{name}/raw")),
            golden.get(&format!("{name}/dequant")),
        );
        let values = in_all_types(&stored(kind, dequant.matrix()[1], &raw.bytes));
        assert_bits(&values, &dequant.floats(), name);
        seen.push(kind);
    }
    let unseen = Gguf::ALL.into_iter().filter(|kind| !seen.contains(kind));
    assert_eq!(unseen.collect::<Vec<_>>(), [Gguf::Q1_0, Gguf::Q2_0]);
}

/// The two types that the Python package does not know: the layouts of `ggml-common.h`, written out.
#[test]
fn types_without_a_golden_follow_the_layout() {
    let mut block = vec![0x00, 0x34]; // 0.25
    block.extend([0b1000_0001; 16]);
    let values = in_all_types(&stored(Gguf::Q1_0, 128, &block));
    for (k, value) in values.iter().enumerate() {
        let expected = if matches!(k % 8, 0 | 7) { 0.25 } else { -0.25 };
        assert_eq!(*value, expected, "q1_0, weight {k}");
    }
    let mut block = vec![0x00, 0x34];
    block.extend([0b11_10_01_00; 16]);
    let values = in_all_types(&stored(Gguf::Q2_0, 64, &block));
    assert_eq!(values, [-0.25, 0.0, 0.25, 0.5].repeat(16));
}

/// llama.cpp's own choices: normal, heavy-tailed, bf16, and rows of zeros, constants, an outlier, a ramp, tiny values.
#[test]
fn every_chosen_type_packs_to_the_bytes_of_llama_cpp() {
    let golden = Golden::open("gguf_quantize", 44);
    for case in &golden.cases {
        let (name, kind) = (text(case, "name"), kind_of(case));
        assert!(Gguf::CHOSEN.contains(&kind), "{kind}");
        let input = golden.get(&format!("inputs/{}", text(case, "input")));
        let shape = input.matrix();
        let packer = gguf::packer(shape, DType::F32, kind).unwrap();
        let packed = fed(packer, &input.bytes, shape[1] * 4, 0);
        let expected = golden.get(&format!("{name}/raw")).bytes;
        let found = pack::to_bytes(&packed.words, expected.len());
        assert_bytes(&found, &expected, name);
    }
}

/// Rows are whole words only together where a block is not whole words.
#[test]
fn tiles_of_any_size_pack_alike() {
    let mut random = Random(11);
    for kind in Gguf::CHOSEN {
        for blocks in [1, 3] {
            for rows in [1, 7, 33] {
                let shape = [rows, blocks * kind.block()];
                for source in [DType::F32, DType::F16, DType::Bf16] {
                    let bytes = random.weights(shape[0] * shape[1], source);
                    let row_bytes = shape[1] * source.size();
                    let packer = || gguf::packer(shape, source, kind).unwrap();
                    let whole = fed(packer(), &bytes, row_bytes, 0);
                    for tiles in [1, 2, 5] {
                        let tiled = fed(packer(), &bytes, row_bytes, tiles);
                        assert!(tiled == whole, "{kind} {shape:?} {source} by {tiles}");
                    }
                    // A half is its value.
                    let mut values = vec![0.0; shape[0] * shape[1]];
                    source.widen(&bytes, &mut values);
                    let wide: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
                    let packer = gguf::packer(shape, DType::F32, kind).unwrap();
                    let wide = fed(packer, &wide, shape[1] * 4, 0);
                    assert!(wide == whole, "{kind} {shape:?} {source}");
                    in_all_types(&whole);
                }
            }
        }
    }
}

/// NaN, infinities, the largest and the smallest numbers, and blocks of each: no panic, and the same bytes again.
#[test]
fn values_that_are_no_weights_do_not_stop_a_packer() {
    let odd = [
        f32::NAN,
        f32::INFINITY,
        -f32::INFINITY,
        f32::MAX,
        f32::MIN,
        1e-40,
        -1e-45,
        65504.0,
        0.0,
        -0.0,
        1.0,
    ];
    let mut random = Random(5);
    for kind in Gguf::CHOSEN {
        let mut rows: Vec<f32> = odd.iter().flat_map(|value| vec![*value; 256]).collect();
        rows.extend((0..32 * 256).map(|_| odd[random.next() as usize % odd.len()]));
        let bytes: Vec<u8> = rows.iter().flat_map(|value| value.to_le_bytes()).collect();
        let shape = [rows.len() / 256, 256];
        let packer = || gguf::packer(shape, DType::F32, kind).unwrap();
        let packed = fed(packer(), &bytes, 1024, 0);
        assert!(packed == fed(packer(), &bytes, 1024, 1), "{kind}");
        packed.dequantize();
    }
}

/// The table in the documentation: `weight` among ones.
#[test]
fn values_that_are_not_finite_give_back_what_is_documented() {
    let given_back = |kind: Gguf, weight: f32, at: usize| {
        let mut weights = [1.0; 256];
        weights[at] = weight;
        let bytes: Vec<u8> = weights.iter().flat_map(|w| w.to_le_bytes()).collect();
        let packer = gguf::packer([1, 256], DType::F32, kind).unwrap();
        fed(packer, &bytes, 1024, 0).dequantize()
    };
    let finite = |values: Vec<f32>| values.iter().all(|value| value.is_finite());
    for kind in Gguf::CHOSEN {
        for at in [0, 5, 255] {
            let last = kind == Gguf::Q8_0 && at == 255;
            let back = given_back(kind, f32::NAN, at);
            assert_eq!(finite(back), !last, "{kind}: NaN at {at}");
            for lost in [f32::INFINITY, f32::NEG_INFINITY, 1e30] {
                let back = given_back(kind, lost, at);
                let is_lost = back[at] == 0.0 || !finite(back);
                assert!(is_lost, "{kind}: {lost} at {at}");
            }
        }
    }
    // The scale is an eighth, and f16 ends between 65504 and 65536.
    assert!(finite(given_back(Gguf::Q4_0, 5.24e5, 7)));
    assert!(!finite(given_back(Gguf::Q4_0, 5.25e5, 7)));
}

/// Some rows stand alone, products are those of the values, and rows are embeddings.
#[test]
fn parts_rows_and_products_of_blocks_are_those_of_the_weight() {
    let mut random = Random(3);
    for kind in Gguf::ALL {
        let shape @ [o, i] = [10, 2 * kind.block()];
        let raw: Vec<u8> = (0..o * kind.row_bytes(i))
            // Halves of an even exponent: every scale is a number.
            .map(|_| random.next() as u8 & 0x3f)
            .collect();
        let weight = stored(kind, i, &raw);
        let values = weight.dequantize();
        assert!(values.iter().all(|value| value.is_finite()), "{kind}");

        let unit = weight.format.part_rows(shape);
        let cut = unit.max(4).next_multiple_of(unit).min(o);
        let parts = [weight.part(0..cut), weight.part(cut..o)];
        assert!(Packed::join(&parts) == Some(weight.clone()), "{kind}");
        let of_parts = [parts[0].dequantize(), parts[1].dequantize()].concat();
        assert_bits(&of_parts, &values, &format!("parts of {kind}"));

        let mut rows = vec![0.0; 2 * i];
        linear::rows(weight.format, shape, &weight.words, &[], &[7, 0], &mut rows).unwrap();
        let expected = [&values[7 * i..8 * i], &values[..i]].concat();
        assert_bits(&rows, &expected, &format!("rows of {kind}"));

        for m in [1, 3, 9] {
            let x: Vec<f32> = (0..m * i).map(|_| random.weight()).collect();
            let mut y = vec![0.0; m * o];
            linear::linear(weight.format, shape, &weight.words, &[], &x, &mut y);
            for (k, y) in y.iter().enumerate() {
                let (x, w) = (&x[k / o * i..][..i], &values[k % o * i..][..i]);
                let terms = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
                let (sum, scale) = (terms.clone().sum::<f64>(), terms.map(f64::abs).sum::<f64>());
                let off = (f64::from(*y) - sum).abs();
                assert!(off <= 1e-6 * scale, "{kind}: {y} for {sum}, {off:e} off");
            }
        }
    }
}

/// A value beyond what its scale can give is saturated; those that blocks give back are not.
#[test]
fn comparisons_know_the_ends_of_blocks() {
    let mut random = Random(9);
    for kind in Gguf::ALL {
        let i = kind.block();
        let raw: Vec<u8> = (0..64 * kind.bytes())
            .map(|_| random.next() as u8 & 0x3f)
            .collect();
        let weight = stored(kind, i, &raw);
        let values = weight.dequantize();
        let bytes = |by: f32| -> Vec<u8> {
            values
                .iter()
                .flat_map(|value| (value * by).to_le_bytes())
                .collect()
        };
        let sums = compare::host(DType::F32, &bytes(1.0), &weight);
        assert_eq!((sums.saturated, sums.largest), (0, 0.0), "{kind}");
        let sums = compare::host(DType::F32, &bytes(300.0), &weight);
        assert!(sums.saturated > 0, "{kind}: nothing is beyond the ends");
    }
}

/// Both numbers and what to do.
#[test]
fn rows_that_are_not_whole_blocks_are_refused() {
    for (kind, cols, advice) in [
        (Gguf::Q4_0, 48, "dense"),
        (Gguf::Q4K, 160, "q8_0"),
        (Gguf::Q6K, 100, "dense"),
    ] {
        let refused = gguf::packer([2, cols], DType::Bf16, kind).err().unwrap();
        assert_eq!(refused, FormatError::BlockColumns { cols, kind });
        let message = refused.to_string();
        for part in [&cols.to_string(), &kind.block().to_string(), advice] {
            assert!(message.contains(part), "{message}");
        }
        let read = Packed::new(Format::Gguf(kind), [2, cols], vec![0; 200], Vec::new());
        assert_eq!(read, Err(refused));
    }
    let refused = gguf::packer([2, 256], DType::Bf16, Gguf::Iq2Xxs)
        .err()
        .unwrap();
    assert_eq!(refused, FormatError::Unchosen { kind: Gguf::Iq2Xxs });
    assert!(refused.to_string().contains("iq4_nl"), "{refused}");
}
