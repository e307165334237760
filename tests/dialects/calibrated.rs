//! Layers of AutoGPTQ and AutoAWQ: read, and written as compressed-tensors.

use std::fs;

use firebox::{
    Cpu, DType, Error, LoadConfig, Loader,
    config::{SaveConfig, To},
    dialect::DialectError,
    place::SaveError,
    quant::kernels::format::{Along, Format},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    Tensors, load, tensors,
    vectors::{One, assert_values, checkpoint, name, of_case, packed, vectors, written},
    write,
};

/// A case as a checkpoint: its name, shape, declaration and tensors.
struct Layer {
    what: String,
    shape: [usize; 2],
    config: Value,
    own: Tensors,
}

/// Every case, and the tensors of them all.
fn layers() -> (Vec<Layer>, Tensors) {
    let (all, cases) = vectors("calibrated");
    assert_eq!(cases.len(), 17);
    let layer = |case: &Value| {
        let what = name(case).to_owned();
        let value = &all[&format!("{what}/dequant")];
        let mut config = case.clone();
        config["modules_to_not_convert"] = json!(["lm_head"]);
        if case["quant_method"] == "awq" {
            (config["version"], config["zero_point"]) = (json!("gemm"), json!(true));
        }
        Layer {
            shape: [value.1[0], value.1[1]],
            config,
            own: of_case(&all, case, |field| field != "dequant"),
            what,
        }
    };
    (cases.iter().map(layer).collect(), all)
}

/// Columns that are in an order of their own, in more than one group.
fn ordered(config: &Value) -> bool {
    config["desc_act"] == true && config["group_size"] != -1
}

/// Every width, three types, both versions of zero points, orders and single groups. Would catch outputs in the wrong
/// place of a word, zero points that lack 1, a list of groups that is not read, and inputs taken for outputs.
#[test]
fn layers_of_auto_gptq_and_auto_awq() {
    let (layers, all) = layers();
    for layer in layers {
        let Layer { what, config, .. } = &layer;
        let loader = checkpoint(layer.shape, config, &layer.own);
        let packed = packed(&loader);
        let Format::Affine(affine) = packed.format else {
            panic!("{what} is {}", packed.format);
        };
        let along = if ordered(config) {
            Along::Ordered
        } else {
            Along::Flat
        };
        assert_eq!(affine.along, along, "{what}");
        assert_eq!(json!(affine.bits), config["bits"], "{what}");
        assert_values(what, &packed.dequantize(), &all[&format!("{what}/dequant")]);
    }
}

/// Groups in order are words of compressed-tensors in other places: what was read is read again, and what is written
/// then is written once more.
#[test]
fn layers_in_order_become_compressed_tensors() {
    let (layers, all) = layers();
    let mut count = 0;
    for layer in layers.iter().filter(|layer| !ordered(&layer.config)) {
        let Layer { what, config, .. } = layer;
        let loader = checkpoint(layer.shape, config, &layer.own);
        let (made, said) = written(&loader, To::CompressedTensors);
        let group = &said["config_groups"]["group_0"];
        assert_eq!(group["format"], "pack-quantized", "{what}");
        let weights = &group["weights"];
        assert_eq!(weights["num_bits"], config["bits"], "{what}");
        assert_eq!(weights["symmetric"], false, "{what}");
        let (strategy, size) = match config["group_size"].as_i64() {
            Some(-1) => ("channel", Value::Null),
            _ => ("group", config["group_size"].clone()),
        };
        assert_eq!(weights["strategy"], strategy, "{what}");
        assert_eq!(weights["group_size"], size, "{what}");

        let again = checkpoint(layer.shape, &said, &made);
        let values = packed(&again).dequantize();
        assert_values(what, &values, &all[&format!("{what}/dequant")]);
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(
            bits(&values),
            bits(&packed(&loader).dequantize()),
            "{what}, in f32"
        );
        assert_eq!(written(&again, To::CompressedTensors).0, made, "{what}");
        count += 1;
    }
    assert_eq!(count, 13);
}

/// Whatever the dialect: none that is written has a list of columns.
#[test]
fn layers_in_an_order_are_not_written() {
    let mut count = 0;
    for layer in layers().0.iter().filter(|layer| ordered(&layer.config)) {
        let loader = checkpoint(layer.shape, &layer.config, &layer.own);
        for to in To::ALL {
            let folder = TempDir::new().expect("a folder");
            let config = SaveConfig::new(folder.path()).dialect(to);
            let what = format!("{} as {to}", layer.what);
            let Err(Error::Save(SaveError::Dialect(error))) = loader.save::<One>(&config) else {
                panic!("{what} is written");
            };
            assert!(
                matches!(error, DialectError::Unwritable { .. }),
                "{what}: {error}"
            );
            assert!(error.to_string().contains("ordered"), "{what}: {error}");
            let mut left = fs::read_dir(folder.path()).expect("a folder");
            assert!(left.next().is_none(), "{what}");
        }
        count += 1;
    }
    assert_eq!(count, 4);
}

/// Requantized in one step, each layer is what it is in two. Would catch an order of columns that is lost, and zero points of
/// another version.
#[test]
fn layers_are_requantized_in_one_step_as_in_two() {
    let mut count = 0;
    for Layer {
        what,
        shape,
        config,
        own,
    } in layers().0
    {
        let [from, dense] = [(); 2].map(|()| TempDir::new().expect("a folder"));
        let said = json!({ "shape": shape, "quantization_config": config });
        fs::write(from.path().join("config.json"), said.to_string()).expect("written");
        write(&from.path().join("model.safetensors"), &own);
        let saved = |config: LoadConfig, to: &TempDir| {
            let loader = Loader::<Cpu>::new(config).expect(&what);
            loader.save::<One>(&SaveConfig::new(to.path()))
        };
        let unpacked = load(from.path()).dequantize(true).dtype(DType::F32);
        saved(unpacked, &dense).expect(&what);
        for quant in ["nf4", "mlx:bits=4,group=32"] {
            let asked = |from: &TempDir| load(from.path()).quant(quant.parse().expect("a spec"));
            let [one, two] = [(); 2].map(|()| TempDir::new().expect("a folder"));
            let once = saved(asked(&from).requantize(true), &one);
            match (once, saved(asked(&dense), &two)) {
                (Ok(_), Ok(_)) => {
                    let same = tensors(one.path()) == tensors(two.path());
                    assert!(same, "{what} to {quant}");
                    count += 1;
                }
                // Rows that are no whole groups.
                (Err(once), Err(twice)) => assert_eq!(once.to_string(), twice.to_string()),
                (once, twice) => panic!("{what} to {quant}: {once:?}, {twice:?}"),
            }
        }
    }
    assert!(count >= 17 + 10, "{count}");
}
