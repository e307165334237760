//! Golden vectors that are laid out as checkpoints: read, given back, written again.

use std::sync::Arc;

use firebox::{
    Cpu, LoadConfig, Loader,
    config::{SaveConfig, To},
    model::{Architecture, BuildError, ConfigError, Linear, Slot, Weights},
    pipeline::Finished,
    quant::kernels::{arith::float::DType, format::Packed},
    source::Memory,
};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    Tensors,
    common::{Golden, max_abs_difference},
    finished,
    requantize::assert_by_rows,
    slices::assert_slices,
    tensors, tensors_of,
};

/// One linear layer, whose shape `config.json` has under `shape`.
#[derive(burn::module::Module, Debug)]
pub(super) struct One {
    up: Linear,
}

impl Architecture for One {
    type Config = [usize; 2];

    fn config(json: &Value) -> Result<[usize; 2], ConfigError> {
        let side = |k: usize| json["shape"][k].as_u64().expect("this test's own field") as usize;
        Ok([side(0), side(1)])
    }

    fn slots([o, i]: &[usize; 2]) -> Vec<Slot> {
        vec![Slot::linear("up.weight", *o, *i)]
    }

    fn build(_: &[usize; 2], weights: &mut Weights) -> Result<Self, BuildError> {
        let up = weights.linear("up")?;
        Ok(Self { up })
    }
}

/// A file of vectors: its tensors, and the parameters of its cases.
pub(super) fn vectors(name: &str) -> (Tensors, Vec<Value>) {
    let path = Golden("").path(&format!("../vectors/{name}.safetensors"));
    let bytes = std::fs::read(&path).expect("a golden file");
    let (_, header) = SafeTensors::read_metadata(&bytes).expect("a golden file");
    let cases = &header.metadata().as_ref().expect("metadata")["cases"];
    let cases = serde_json::from_str(cases).expect("a list");
    (tensors_of(&path), cases)
}

pub(super) fn name(case: &Value) -> &str {
    case["name"].as_str().expect("a name")
}

/// The cases whose names begin so.
fn named<'a>(cases: &'a [Value], start: &str) -> Vec<&'a Value> {
    let begins = |case: &&Value| name(case).starts_with(start);
    cases.iter().filter(begins).collect()
}

/// The tensors of a case that `keep` says yes to, as parts of the layer.
pub(super) fn of_case(all: &Tensors, case: &Value, keep: impl Fn(&str) -> bool) -> Tensors {
    renamed(all, case, |field| keep(field).then_some(field))
}

/// The tensors of a case that `part` has a name for, as parts of the layer.
fn renamed(all: &Tensors, case: &Value, part: impl Fn(&str) -> Option<&str>) -> Tensors {
    let prefix = format!("{}/", name(case));
    let own = all.iter().filter_map(|(name, tensor)| {
        let part = part(name.strip_prefix(&prefix)?)?;
        Some((format!("up.{part}"), tensor.clone()))
    });
    own.collect()
}

/// A checkpoint of one layer, in memory.
pub(super) fn checkpoint(
    shape: [usize; 2],
    quantization: &Value,
    tensors: &Tensors,
) -> Loader<Cpu> {
    model(
        json!({ "shape": shape, "quantization_config": quantization }),
        tensors,
    )
}

fn model(config: Value, tensors: &Tensors) -> Loader<Cpu> {
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        let view = safetensors::tensor::TensorView::new(*dtype, shape.clone(), bytes);
        (name.as_str(), view.expect("a tensor"))
    });
    let weights = safetensors::serialize(views, None).expect("a file");
    let source = Memory::new()
        .with("config.json", config.to_string().into_bytes())
        .with("model.safetensors", weights);
    Loader::new(LoadConfig::default().source(Arc::new(source))).expect("a checkpoint")
}

pub(super) fn packed(loader: &Loader<Cpu>) -> Packed {
    let plan = loader.plan::<One>().expect("a plan");
    match &finished(loader, &plan)[..] {
        [(_, Finished::Packed(packed))] => {
            // Whatever the layout, some of its rows are read alone.
            let what = format!("{:?} of {}", packed.shape, packed.format);
            assert_by_rows(&what, loader, &plan, packed);
            assert_slices(loader, packed);
            packed.clone()
        }
        other => panic!("{other:?}"),
    }
}

pub(super) fn written(loader: &Loader<Cpu>, to: To) -> (Tensors, Value) {
    let folder = TempDir::new().expect("a folder");
    let to = SaveConfig::new(folder.path()).dialect(to);
    loader.save::<One>(&to).expect("saved");
    let config = super::json(&folder.path().join("config.json"));
    (
        tensors(folder.path()),
        config["quantization_config"].clone(),
    )
}

fn float(dtype: Dtype) -> DType {
    match dtype {
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::Bf16,
        other => panic!("{other} is no plain float"),
    }
}

/// Bits of the golden values, and of ours rounded to their type.
pub(super) fn assert_values(
    what: &str,
    found: &[f32],
    (dtype, _, bytes): &(Dtype, Vec<usize>, Vec<u8>),
) {
    let float = float(*dtype);
    let mut expected = vec![0.0; found.len()];
    float.widen(bytes, &mut expected);
    for (k, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let found = float.round(*found);
        let equal = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
        assert!(equal, "{what}, weight {k}: {found}, expected {expected}");
    }
}

/// All twelve cases: words and bytes, groups, rows and whole tensors, symmetric and not. Would catch zero points in
/// rows instead of columns, codes that are not counted from the middle, streams of three bits.
#[test]
fn whole_numbers_of_compressed_tensors() {
    let (all, cases) = vectors("ct_int");
    assert_eq!(cases.len(), 12);
    for case in &cases {
        let what = name(case);
        let own = of_case(&all, case, |field| field != "dequant");
        let value = &all[&format!("{what}/dequant")];
        let shape = [value.1[0], value.1[1]];
        let format = match case["format"].as_str() {
            Some("pack") => "pack-quantized",
            _ => "int-quantized",
        };
        let config = json!({
            "quant_method": "compressed-tensors",
            "format": format,
            "ignore": [],
            "config_groups": { "group_0": {
                "targets": ["Linear"],
                "weights": {
                    "num_bits": case["num_bits"],
                    "type": "int",
                    "symmetric": case["symmetric"],
                    "strategy": case["strategy"],
                    "group_size": case["group_size"],
                },
            } },
        });
        let loader = checkpoint(shape, &config, &own);
        assert_values(what, &packed(&loader).dequantize(), value);
        let (again, said) = written(&loader, To::CompressedTensors);
        assert_eq!(again, own, "{what}");
        let group = &said["config_groups"]["group_0"];
        assert_eq!(group["format"], format, "{what}");
        for field in ["num_bits", "type", "symmetric", "strategy"] {
            assert_eq!(group["weights"][field], case[field], "{what} {field}");
        }
    }
}

/// All fifteen cases of FP8 with scales. Would catch a scale that changes its type or shape, and powers of two that are
/// read as something else.
#[test]
fn floats_of_compressed_tensors_and_transformers() {
    let (all, cases) = vectors("fp8_scaled");
    assert_eq!(cases.len(), 15);
    for case in &cases {
        let what = name(case);
        let own = of_case(&all, case, |field| !field.starts_with("dequant"));
        let shape = &own["up.weight"].1;
        let (config, to) = if what.starts_with("ct_") {
            let config = json!({
                "quant_method": "compressed-tensors",
                "format": "float-quantized",
                "config_groups": { "group_0": {
                    "targets": ["Linear"],
                    "weights": {
                        "num_bits": 8,
                        "type": "float",
                        "symmetric": true,
                        "strategy": case["strategy"],
                        "group_size": case["group_size"],
                        "block_structure": case["block_structure"],
                    },
                } },
            });
            (config, To::CompressedTensors)
        } else {
            let config = json!({
                "quant_method": "fp8",
                "fmt": "e4m3",
                "weight_block_size": case["block"],
                "scale_fmt": case["scale_fmt"],
            });
            (config, To::Fp8)
        };
        let loader = checkpoint([shape[0], shape[1]], &config, &own);
        let values = packed(&loader).dequantize();
        let given_back = ["dequant", "dequant_f32", "dequant_bf16"]
            .map(|field| all.get(&format!("{what}/{field}")));
        // compressed-tensors rounds a code to the type too, which changes none.
        for value in given_back.into_iter().flatten() {
            assert_values(what, &values, value);
        }
        let (again, said) = written(&loader, to);
        assert_eq!(again, own, "{what}");
        for field in ["weight_block_size", "scale_fmt"] {
            assert_eq!(said[field], config[field], "{what} {field}");
        }
    }
}

/// Every matrix among the cases, all widths and modes. Values are compared in f32: in half types MLX rounds twice.
#[test]
fn whole_numbers_and_small_floats_of_mlx() {
    let mut count = 0;
    for (file, mode) in [("mlx_affine", Some("affine")), ("mlx_fp", None)] {
        let (all, cases) = vectors(file);
        for case in &cases {
            let what = name(case);
            let sides: Vec<usize> = serde_json::from_value(case["shape"].clone()).expect("sides");
            let global = all.contains_key(&format!("{what}/global_scale"));
            let (&[o, i], false) = (&sides[..], global) else {
                continue;
            };
            let own = renamed(&all, case, |field| match field {
                "w" => Some("weight"),
                "scales" | "biases" => Some(field),
                _ => None,
            });
            let said = json!({
                "group_size": case["group_size"],
                "bits": case["bits"],
                "mode": mode.map_or(case["mode"].clone(), Value::from),
            });
            let config = json!({ "shape": [o, i], "quantization": said });
            let loader = model(config, &own);
            let values = packed(&loader).dequantize();
            let in_f32 = all.get(&format!("{what}/dequant_f32"));
            let value = in_f32.or(all.get(&format!("{what}/dequant")));
            if let Some(value) = value.filter(|value| value.0 == Dtype::F32) {
                assert_values(what, &values, value);
            }
            let (again, config) = written(&loader, To::Mlx);
            assert_eq!(again, own, "{what}");
            assert_eq!(config, said, "{what}");
            count += 1;
        }
    }
    assert_eq!(count, 75 - 1 + 28 - 1);
}

/// The layers that hqq has saved: every width, both axes, three types. Would catch codes that are taken apart along the
/// wrong axis, ten codes of a word in the wrong order, and a scalar that is written otherwise.
#[test]
fn layers_of_hqq() {
    let (all, cases) = vectors("hqq");
    let cases = named(&cases, "linear_");
    assert_eq!(cases.len(), 16);
    for case in cases {
        let what = name(case);
        let own = of_case(&all, case, |field| !["dequant", "bias"].contains(&field));
        let value = &all[&format!("{what}/dequant")];
        let flag = |name: &str| Value::from(own[&format!("up.{name}")].2 == [1]);
        let config = json!({
            "quant_method": "hqq",
            "skip_modules": [],
            "quant_config": { "weight_quant_params": {
                "nbits": case["nbits"],
                "group_size": case["group_size"],
                "axis": case["axis"],
                "channel_wise": true,
                "optimize": flag("optimize"),
                "round_zero": flag("round_zero"),
                "view_as_float": case["view_as_float"],
            } },
        });
        let loader = checkpoint([value.1[0], value.1[1]], &config, &own);
        let values = packed(&loader).dequantize();
        if value.0 == Dtype::F32 {
            assert_values(what, &values, value);
        }
        // Codes that are declared as floats are written as what they are.
        if case["view_as_float"] == false {
            let (again, said) = written(&loader, To::Hqq);
            assert_eq!(again, own, "{what}");
            let [said, config] =
                [said, config].map(|config| config["quant_config"]["weight_quant_params"].clone());
            assert_eq!(said, config, "{what}");
        }
    }
}

/// One group for all weights: hqq's own codes, `[out, in]`, scale and zero without sides.
#[test]
fn a_layer_of_hqq_without_channels() {
    let (all, cases) = vectors("hqq");
    let case = cases.iter().find(|case| case["name"] == "chan_none");
    let case = case.expect("the case");
    let own = of_case(&all, case, |field| {
        ["W_q", "scale", "zero"].contains(&field)
    });
    let config = json!({
        "quant_method": "hqq",
        "skip_modules": [],
        "quant_config": { "weight_quant_params": {
            "nbits": case["nbits"],
            "group_size": case["group_size"],
            "axis": case["axis"],
            "channel_wise": false,
        } },
    });
    let shape = own["up.W_q"].1.clone();
    let loader = checkpoint([shape[0], shape[1]], &config, &own);
    let values = packed(&loader).dequantize();
    let codes = own["up.W_q"].2.iter().map(|code| f32::from(*code));
    let [scale, zero] = ["scale", "zero"].map(|part| {
        let bytes = own[&format!("up.{part}")].2[..]
            .try_into()
            .expect("four bytes");
        f32::from_le_bytes(bytes)
    });
    let expected: Vec<f32> = codes.map(|code| (code - zero) * scale).collect();
    assert_eq!(values, expected);
    let (again, _) = written(&loader, To::Hqq);
    for (name, tensor) in own {
        assert_eq!(again[&name], tensor, "{name}");
    }
}

/// Every matrix among the cases: both code books, plain and nested scales, every block, odd shapes, bytes that
/// are declared as floats.
#[test]
fn four_bits_of_bitsandbytes() {
    let (all, cases) = vectors("bnb_4bit");
    let mut count = 0;
    for case in &cases {
        let what = name(case);
        let sides: Vec<usize> = serde_json::from_value(case["shape"].clone()).expect("sides");
        let &[o, i] = &sides[..] else {
            continue;
        };
        let own = of_case(&all, case, |field| field.starts_with("weight"));
        let config = json!({
            "shape": [o, i],
            "dtype": case["dtype"],
            "quantization_config": {
                "quant_method": "bitsandbytes",
                "load_in_4bit": true,
                "bnb_4bit_quant_type": case["quant_type"],
                "bnb_4bit_use_double_quant": case["nested"],
            },
        });
        let loader = model(config, &own);
        let values = packed(&loader).dequantize();
        assert_values(what, &values, &all[&format!("{what}/dequant")]);
        if case["quant_storage"] == "uint8" {
            assert_eq!(written(&loader, To::BitsAndBytes).0, own, "{what}");
        }
        count += 1;
    }
    assert_eq!(count, 46);
}

/// Nested scales become the plain ones that bitsandbytes itself gives (`absmax_f32`), with the same codes; and plain ones
/// become nested as the quantizer nests them, whose codes `kernels/tests/bitsandbytes.rs` compares.
#[test]
fn scales_of_bitsandbytes_are_nested_and_made_plain() {
    let (all, cases) = vectors("bnb_4bit");
    let mut cases = named(&cases, "nested_");
    cases.retain(|case| case["nested"] == true);
    assert_eq!(cases.len(), 4);
    for case in cases {
        let what = name(case);
        let own = of_case(&all, case, |field| field.starts_with("weight"));
        let config = json!({
            "shape": case["shape"],
            "dtype": case["dtype"],
            "quantization_config": {
                "quant_method": "bitsandbytes",
                "load_in_4bit": true,
                "bnb_4bit_quant_type": case["quant_type"],
                "bnb_4bit_use_double_quant": true,
            },
        });
        let loader = model(config, &own);
        let [plain, again] = [(); 2].map(|()| TempDir::new().expect("a folder"));
        let to = SaveConfig::new(plain.path()).nested(false);
        loader.save::<One>(&to).expect("saved");
        let made = tensors(plain.path());
        let (dtype, _, bytes) = &made["up.weight.absmax"];
        assert_eq!(*dtype, Dtype::F32, "{what}");
        assert_eq!(bytes, &all[&format!("{what}/absmax_f32")].2, "{what}");
        assert_eq!(made["up.weight"], own["up.weight"], "{what}");
        assert!(!made.contains_key("up.weight.nested_absmax"), "{what}");

        // Back again: every scale is a value that codes have, but the mean is another, so it moves a little.
        let loader = Loader::<Cpu>::new(super::load(plain.path())).expect("a checkpoint");
        let to = SaveConfig::new(again.path()).nested(true);
        loader.save::<One>(&to).expect("saved");
        let nested = tensors(again.path());
        assert_eq!(nested["up.weight.absmax"].0, Dtype::U8, "{what}");
        let loader = Loader::<Cpu>::new(super::load(again.path())).expect("a checkpoint");
        let values = packed(&loader).dequantize();
        let mut expected = vec![0.0; values.len()];
        let (dtype, _, bytes) = &all[&format!("{what}/dequant")];
        float(*dtype).widen(bytes, &mut expected);
        let largest = expected
            .iter()
            .fold(0.0_f32, |largest, value| largest.max(value.abs()));
        // 256 codes: steps of at most 1/64 of the range of scales, hence half of that.
        let error = max_abs_difference(&values, &expected);
        assert!(error <= largest / 64.0, "{what}: {error} of {largest}");
    }
}

/// The two layers that bitsandbytes has saved with 8 bits.
#[test]
fn eight_bits_of_bitsandbytes() {
    let (all, cases) = vectors("bnb_int8");
    let cases = named(&cases, "linear8bit");
    assert_eq!(cases.len(), 2);
    for case in cases {
        let what = name(case);
        let own = of_case(&all, case, |field| {
            ["weight", "SCB", "weight_format"].contains(&field)
        });
        let shape = &own["up.weight"].1;
        let config = json!({ "quant_method": "bitsandbytes", "load_in_8bit": true });
        let loader = checkpoint([shape[0], shape[1]], &config, &own);
        // LLM.int8: code * SCB / 127, in two f32 steps.
        let codes = own["up.weight"]
            .2
            .iter()
            .map(|byte| f32::from(byte.cast_signed()));
        let scales = own["up.SCB"].2.as_chunks().0;
        let scale = |k: usize| f32::from_le_bytes(scales[k / shape[1]]);
        let expected: Vec<u32> = codes
            .enumerate()
            .map(|(k, code)| (code * scale(k) * 0.007_874_016).to_bits())
            .collect();
        let values = packed(&loader).dequantize();
        let found: Vec<u32> = values.iter().map(|value| value.to_bits()).collect();
        assert_eq!(found, expected, "{what}");
        assert_eq!(written(&loader, To::BitsAndBytes).0, own, "{what}");
    }
}
