//! Modules saved as checkpoints.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use burn::tensor::{Device, Int, Tensor, TensorData};
use firebox::{
    Cpu, Error, LoadConfig, Loader, Strategy,
    adapter::{self, AdapterConfig, AdapterError, AdapterFile, LoraConfig},
    config::{SaveConfig, To},
    model::{Architecture, CausalLm},
    place::SaveError,
    target::DType,
};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::{
    adapters::goldens,
    common::{Golden, max_abs_difference, repository},
};

/// A tensor of a file.
#[derive(PartialEq)]
struct Stored {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// Every tensor of a folder, by name.
fn tensors(folder: &Path) -> BTreeMap<String, Stored> {
    let files = fs::read_dir(folder).expect("a folder");
    let files = files.map(|file| file.expect("a file").path());
    let files = files.filter(|file| file.extension().is_some_and(|end| end == "safetensors"));
    let files = files.filter(|file| !file.ends_with("logits.safetensors"));
    let mut found = BTreeMap::new();
    for file in files {
        let bytes = fs::read(&file).expect("a file");
        let Ok(tensors) = SafeTensors::deserialize(&bytes) else {
            continue;
        };
        for (name, view) in tensors.iter() {
            let stored = Stored {
                dtype: view.dtype(),
                shape: view.shape().to_vec(),
                bytes: view.data().to_vec(),
            };
            found.insert(name.to_owned(), stored);
        }
    }
    found
}

fn config(folder: &Path) -> Value {
    let config = fs::read(folder.join("config.json")).expect("a configuration");
    serde_json::from_slice(&config).expect("JSON")
}

/// Compares two folders to the byte.
fn assert_same(name: &str, found: &Path, expected: &Path) {
    let (written, stored) = (tensors(found), tensors(expected));
    let names =
        |tensors: &BTreeMap<String, Stored>| -> Vec<String> { tensors.keys().cloned().collect() };
    assert_eq!(names(&written), names(&stored), "{name}");
    for (tensor, expected) in &stored {
        let found = &written[tensor];
        assert_eq!(found.shape, expected.shape, "{name}: {tensor}");
        assert_eq!(found.dtype, expected.dtype, "{name}: {tensor}");
        assert!(found == expected, "{name}: {tensor} has other bytes");
    }
    assert_eq!(config(found), config(expected), "{name}");
}

fn folders(under: &str) -> Vec<PathBuf> {
    let folders = fs::read_dir(repository().join("tests/golden").join(under)).expect("goldens");
    let mut folders: Vec<PathBuf> = folders.map(|it| it.expect("a folder").path()).collect();
    folders.retain(|folder| folder.join("config.json").exists());
    folders.sort();
    assert!(folders.len() > 4, "{folders:?}");
    folders
}

fn loader(folder: &Path, ask: impl FnOnce(LoadConfig) -> LoadConfig) -> Loader<Cpu> {
    let config = LoadConfig::new(folder.to_string_lossy());
    Loader::new(ask(config)).unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
}

fn load(loader: &Loader<Cpu>) -> CausalLm {
    loader
        .load()
        .unwrap_or_else(|error| panic!("{error}"))
        .model
}

/// The folder that a module is saved to.
fn save_module(loader: &Loader<Cpu>, model: &CausalLm) -> tempfile::TempDir {
    let to = tempfile::tempdir().expect("a folder");
    let saved = loader.save_module(model, &SaveConfig::new(to.path()));
    saved.unwrap_or_else(|error| panic!("{error}"));
    to
}

fn logits(model: &CausalLm) -> Vec<f32> {
    let ids: Vec<i32> = (0..24).map(|nth| (nth * 37 + 5) % 90).collect();
    let ids: Tensor<2, Int> = Tensor::from_data(TensorData::new(ids, [2, 12]), &Device::flex());
    let logits = model.forward(ids).into_data();
    logits.try_into_vec().expect("f32")
}

/// Every family. Would catch a slot whose values have another place in the module, a matrix that is stored the other way round,
/// a stack of experts, a name, a type, or a tensor that no slot takes and that is lost.
#[test]
fn a_dense_module_is_saved_as_it_was_loaded() {
    for folder in folders("models") {
        let name = folder.file_name().expect("a name").to_string_lossy();
        for ask in [
            |config: LoadConfig| config,
            |config: LoadConfig| config.strategy(Strategy::Streaming),
        ] {
            let loader = loader(&folder, ask);
            let to = save_module(&loader, &load(&loader));
            assert_same(&name, to.path(), &folder);
        }
    }
}

/// In each dialect that is written. Would catch words that are decoded and packed again, scales, provenance, and a dialect's
/// fields of `config.json`.
#[test]
fn a_packed_module_is_saved_as_a_save_packs_the_checkpoint() {
    for (model, quants) in [
        (
            "llama_f32_tied",
            &[
                "nf4",
                "nf4:nested",
                "fp4",
                "int8",
                "mlx:bits=4,group=64",
                "hqq:bits=4,group=64",
                "fp8:e4m3,scale=channel",
                "fp8:e4m3,scale=block",
                "wna16:bits=4,group=64",
                "wna16:bits=4,group=64,asymmetric",
                "nvfp4",
                "mxfp4",
            ][..],
        ),
        ("gpt2_f32", &["nf4"]),
        ("gemma3_bf16", &["nf4"]),
        ("qwen2_moe_bf16", &["nf4", "fp8:e4m3,scale=channel"]),
        ("mixtral_bf16", &["nf4"]),
    ] {
        for quant in quants {
            let quant = quant.parse().expect(quant);
            let folder = Golden(model).path("");
            let loader = loader(&folder, |config| config.quant(quant));
            let expected = tempfile::tempdir().expect("a folder");
            let saved = loader.save::<CausalLm>(&SaveConfig::new(expected.path()));
            saved.unwrap_or_else(|error| panic!("{model}: {error}"));
            let to = save_module(&loader, &load(&loader));
            assert_same(model, to.path(), expected.path());
        }
    }
}

/// Would catch a packed checkpoint whose weights change, or whose dialect does.
#[test]
fn a_module_of_a_packed_checkpoint_is_saved_as_the_checkpoint() {
    let mut saved = 0;
    for folder in [folders("packed"), folders("quantized")].concat() {
        let name = folder.file_name().expect("a name").to_string_lossy();
        let config = LoadConfig::new(folder.to_string_lossy());
        let Ok(loader) = Loader::<Cpu>::new(config) else {
            // A configuration without its weights.
            continue;
        };
        saved += 1;
        let expected = tempfile::tempdir().expect("a folder");
        if loader
            .save::<CausalLm>(&SaveConfig::new(expected.path()))
            .is_err()
        {
            // A dialect that is read and not written.
            continue;
        }
        let model = load(&loader);
        let to = save_module(&loader, &model);
        let again = self::loader(to.path(), |config| config);
        assert!(
            logits(&load(&again)) == logits(&model),
            "{name}: other logits"
        );
        let (written, stored) = (tensors(to.path()), tensors(expected.path()));
        let same = written
            .iter()
            .filter(|(tensor, _)| stored.contains_key(*tensor));
        assert!(same.clone().count() > 0, "{name}");
        for (tensor, found) in same {
            assert!(*found == stored[tensor], "{name}: {tensor} has other bytes");
        }
    }
    assert!(saved >= 6, "{saved}");
}

/// The adapters of peft: beside the weights, and in the weights of a module that is saved, in `f32`. Would catch a change that is
/// left out, doubled, or turned, and a head that is taken for the embedding.
#[test]
fn adapters_are_merged_as_the_module_computes() {
    for folder in goldens() {
        let name = folder.display();
        let file = AdapterFile::open(&folder).expect("an adapter");
        let base = Golden(file.config.base().expect("a base").to_owned().leak()).path("");
        let in_f32 = loader(&base, |config| config.dtype(DType::F32));
        let mut model = load(&in_f32);
        let before = logits(&model);
        let switch = adapter::attach(&mut model, &file, 1.0, &Device::flex()).expect("it fits");
        let merged = save_module(&in_f32, &model);
        assert_eq!(config(merged.path())["dtype"], "float32", "{name}");
        let merged = load(&loader(merged.path(), |config| config));
        assert!(max_abs_difference(&logits(&model), &before) > 0.1, "{name}");
        let error = max_abs_difference(&logits(&merged), &logits(&model));
        assert!(error <= 1e-4, "{name}: {error}");

        // Switched off it is the base, to the byte.
        switch.set_weight(0.0);
        let stored = loader(&base, |config| config);
        let off = save_module(&stored, &model);
        assert_same(&name.to_string(), off.path(), &base);
        switch.set_weight(1.0);
        // In the type of the checkpoint every value is within a rounding of the merged files.
        let expected = tempfile::tempdir().expect("a folder");
        let merging = loader(&base, |config| {
            config.adapter(AdapterConfig::folder(&folder))
        });
        let saved = merging.save::<CausalLm>(&SaveConfig::new(expected.path()));
        saved.unwrap_or_else(|error| panic!("{name}: {error}"));
        let to = save_module(&stored, &model);
        let (written, stored) = (tensors(to.path()), tensors(expected.path()));
        for (tensor, expected) in &stored {
            if tensor.starts_with("vision_tower.") {
                // The module reads text; a merge changes what reads pictures too.
                continue;
            }
            let (found, step) = (
                &written[tensor],
                match expected.dtype {
                    Dtype::BF16 => 1.0 / 128.0,
                    Dtype::F16 => 1.0 / 1024.0,
                    _ => 1e-6,
                },
            );
            assert_eq!(found.dtype, expected.dtype, "{name}: {tensor}");
            let expected = floats(expected);
            let largest = expected
                .iter()
                .fold(0.0_f32, |most, value| most.max(value.abs()));
            for (found, expected) in floats(found).into_iter().zip(expected) {
                // peft rounds the change of a table before it is added.
                let size = match tensor.contains("embed_tokens") {
                    true => largest,
                    false => expected.abs().max(found.abs()),
                };
                let most = step * size + 1e-6;
                assert!(
                    (found - expected).abs() <= most,
                    "{name}: {tensor}, {found} and {expected}"
                );
            }
        }
    }
}

fn floats(stored: &Stored) -> Vec<f32> {
    let halves = stored.bytes.chunks_exact(2);
    let halves = halves.map(|half| u16::from_le_bytes([half[0], half[1]]));
    match stored.dtype {
        Dtype::BF16 => halves
            .map(|half| half::bf16::from_bits(half).to_f32())
            .collect(),
        Dtype::F16 => halves
            .map(|half| half::f16::from_bits(half).to_f32())
            .collect(),
        _ => bytemuck::pod_collect_to_vec(&stored.bytes),
    }
}

/// A head that is trained is another matrix than the embedding from then on. Would catch a configuration that still ties them,
/// and a head that is lost.
#[test]
fn a_trained_head_is_saved_beside_the_embedding() {
    let folder = Golden("llama_f32_tied").path("");
    let loader = loader(&folder, |config| config);
    assert_eq!(config(&folder)["tie_word_embeddings"], true);
    let whole = LoraConfig::new(2, 2.0).whole("lm_head".parse().expect("a pattern"));
    let mut model = load(&loader);
    adapter::add(&mut model, &whole, &Device::flex()).expect("a head");
    // Nothing is trained yet: the head is still the embedding.
    assert_same("untrained", save_module(&loader, &model).path(), &folder);

    for mut place in model.adaptable() {
        for adapter in place.adapters() {
            if let Some(whole) = &mut adapter.whole {
                *whole = burn::module::Param::from_tensor(whole.val() * 1.5);
            }
        }
    }
    let to = save_module(&loader, &model);
    assert_eq!(config(to.path())["tie_word_embeddings"], false);
    let again = load(&self::loader(to.path(), |config| config));
    let error = max_abs_difference(&logits(&again), &logits(&model));
    assert!(error <= 1e-5, "{error}");
}

/// Would catch adapters that are merged into codes without a word, and a policy that is not followed.
#[test]
fn changed_words_are_packed_again_as_asked_or_refused() {
    let adapter = repository().join("tests/golden/adapters/llama_rslora");
    let file = AdapterFile::open(&adapter).expect("an adapter");
    let base = Golden(file.config.base().expect("a base").to_owned().leak()).path("");
    let nf4 = |config: LoadConfig| config.quant("nf4".parse().expect("a quantization"));
    let packing = loader(&base, nf4);
    let mut model = load(&packing);
    adapter::attach(&mut model, &file, 1.0, &Device::flex()).expect("it fits");

    let plain = loader(&base, |config| config);
    let to = tempfile::tempdir().expect("a folder");
    let error = plain.save_module(&model, &SaveConfig::new(to.path()));
    let error = error.expect_err("packed matrices that an adapter changes");
    let packed = |error: &Error| matches!(error, Error::Adapter(AdapterError::Packed { .. }));
    assert!(packed(&error), "{error}");

    // Dense, they are what the module computes.
    let dense = loader(&base, |config| config.dequantize(true).dtype(DType::F32));
    let dense = save_module(&dense, &model);
    assert!(config(dense.path()).get("quantization_config").is_none());
    let again = load(&loader(dense.path(), |config| config));
    let error = max_abs_difference(&logits(&again), &logits(&model));
    assert!(error <= 1e-4, "{error}");

    // Packed again, they are those of the dense ones, packed.
    let packed = save_module(&packing, &model);
    let expected = loader(dense.path(), |config| nf4(config).dtype(DType::F32));
    let expected = load(&expected);
    let error = max_abs_difference(
        &logits(&load(&loader(packed.path(), |it| it))),
        &logits(&expected),
    );
    assert!(error <= 1e-3, "{error}");
    assert!(max_abs_difference(&logits(&expected), &logits(&model)) > 0.01);
}

/// Would catch a module of another model that is written under the names of this one.
#[test]
fn a_module_of_another_checkpoint_is_refused() {
    let model = load(&loader(&Golden("llama_f32_tied").path(""), |config| config));
    let other = loader(&Golden("qwen3_bf16").path(""), |config| config);
    let to = tempfile::tempdir().expect("a folder");
    let error = other.save_module(&model, &SaveConfig::new(to.path()));
    let error = error.expect_err("another model");
    let named = matches!(
        &error,
        Error::Save(SaveError::NotInModule { .. } | SaveError::OtherModule { .. })
    );
    assert!(named, "{error}");
    assert_eq!(fs::read_dir(to.path()).expect("a folder").count(), 0);
}

/// Would catch a save that goes on with the weights of another state of the module.
#[test]
fn a_module_that_was_trained_on_is_no_part_of_its_earlier_save() {
    let loader = loader(&Golden("llama_f32_tied").path(""), |config| {
        config.quant("nf4".parse().expect("a quantization"))
    });
    let mut model = load(&loader);
    let to = tempfile::tempdir().expect("a folder");
    let save = SaveConfig::new(to.path())
        .dialect(To::BitsAndBytes)
        .resume(true);
    let saved = loader.save_module(&model, &save).expect("a save");
    assert!(saved.bytes_written > 0);
    // The same again finds nothing left to do.
    let again = loader.save_module(&model, &save).expect("a save");
    assert_eq!(again.resumed, again.report.tensors);
    let scale = model.norm.scale.val() * 2.0;
    model.norm.scale = burn::module::Param::from_tensor(scale);
    let error = loader
        .save_module(&model, &save)
        .expect_err("another state");
    assert!(error.to_string().contains("another save"), "{error}");
}
