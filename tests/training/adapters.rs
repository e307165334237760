//! Adapters of peft on models: logits as peft computes them, files as peft writes them.

use core::mem::discriminant;
use std::{fs, path::PathBuf};

use burn::tensor::{Device, Int, Tensor, TensorData};
use firebox::{
    Cpu, Error, LoadConfig, Loader, Strategy,
    adapter::{self, AdapterConfig, AdapterError, AdapterFile, LoraConfig},
    config::SaveConfig,
    model::CausalLm,
    plan::Plan,
    target::DType,
};
use safetensors::SafeTensors;
use serde_json::Value;

use crate::common::{Golden, floats, max_abs_difference, models, repository};

/// The adapters of `tests/golden/adapters`.
pub(crate) fn goldens() -> Vec<PathBuf> {
    let folders = fs::read_dir(repository().join("tests/golden/adapters")).expect("adapters");
    let mut folders: Vec<PathBuf> = folders
        .map(|folder| folder.expect("a folder").path())
        .collect();
    folders.sort();
    assert!(folders.len() >= 4, "{folders:?}");
    folders
}

pub(crate) fn base_of(adapter: &std::path::Path) -> Golden {
    let config = fs::read(adapter.join("adapter_config.json")).expect("a configuration");
    let config: Value = serde_json::from_slice(&config).expect("JSON");
    let base = config["base_model_name_or_path"].as_str().expect("a base");
    Golden(base.to_owned().leak())
}

pub(crate) fn load(base: Golden, ask: impl FnOnce(LoadConfig) -> LoadConfig) -> CausalLm {
    let config = LoadConfig::new(base.path("").to_string_lossy());
    let loader = Loader::<Cpu>::new(ask(config)).expect(base.0);
    loader.load().expect(base.0).model
}

pub(crate) fn logits(model: &CausalLm, ids: &Tensor<2, Int>) -> Vec<f32> {
    let logits = model.forward(ids.clone()).into_data();
    logits.try_into_vec().expect("f32")
}

/// The tokens of a golden and its logits under some name.
pub(crate) fn expected(adapter: &std::path::Path, name: &str) -> (Tensor<2, Int>, Vec<f32>) {
    let bytes = fs::read(adapter.join("logits.safetensors")).expect("logits");
    let tensors = SafeTensors::deserialize(&bytes).expect("logits");
    let ids = tensors.tensor("input_ids").expect("ids");
    let values: Vec<i64> = ids
        .data()
        .chunks_exact(8)
        .map(|id| i64::from_le_bytes(id.try_into().expect("eight bytes")))
        .collect();
    let ids = TensorData::new(values, [ids.shape()[0], ids.shape()[1]]);
    let ids = Tensor::from_data(ids, &Device::flex());
    (ids, floats(&tensors.tensor(name).expect(name)))
}

/// Would catch a scale, an orientation, a pattern, a norm of DoRA or a replaced matrix that is not peft's.
#[test]
fn logits_are_those_of_peft() {
    for folder in goldens() {
        let name = folder.display();
        let base = base_of(&folder);
        let file = AdapterFile::open(&folder).unwrap_or_else(|error| panic!("{error}"));
        let (ids, expected) = expected(&folder, "logits_f32");
        for strategy in [Strategy::Full, Strategy::Streaming] {
            let mut model = load(base, |config| config.dtype(DType::F32).strategy(strategy));
            let before = logits(&model, &ids);
            assert!(
                max_abs_difference(&before, &expected) > 0.1,
                "{name} changes nothing"
            );
            let switch = adapter::attach(&mut model, &file, 1.0, &Device::flex());
            let switch = switch.unwrap_or_else(|error| panic!("{error}"));
            let error = max_abs_difference(&logits(&model, &ids), &expected);
            assert!(error <= 1e-4, "{name}, {strategy}: {error}");

            switch.set_weight(0.0);
            assert_eq!(logits(&model, &ids), before, "{name} switched off");
            switch.set_weight(1.0);
            let error = max_abs_difference(&logits(&model, &ids), &expected);
            assert!(error <= 1e-4, "{name}, {strategy}, on again: {error}");
            // Half of it twice is all of it.
            switch.set_weight(0.5);
            adapter::attach(&mut model, &file, 0.5, &Device::flex()).expect("it fits twice");
            let error = max_abs_difference(&logits(&model, &ids), &expected);
            assert!(error <= 1e-4, "{name}, {strategy}, in two halves: {error}");
            assert_eq!(adapter::adapters(&mut model).len(), 2);
        }
    }
}

/// Would catch a field, an order or a type of peft's files that does not survive.
#[test]
fn files_of_peft_are_written_again_to_the_byte() {
    for folder in goldens() {
        let to = tempfile::tempdir().expect("a folder");
        let file = AdapterFile::open(&folder).expect("an adapter");
        file.save(to.path()).expect("a save");
        for name in ["adapter_config.json", "adapter_model.safetensors"] {
            let [read, written] = [folder.as_path(), to.path()]
                .map(|folder| fs::read(folder.join(name)).expect(name));
            assert!(read == written, "{}: {name} differs", folder.display());
        }
        assert_eq!(
            AdapterFile::open(to.path())
                .expect("an adapter")
                .modules()
                .count(),
            file.modules().count()
        );
    }
}

/// Would catch factors that change something before they are trained, on any base.
#[test]
fn new_factors_change_nothing_and_alone_are_trained() {
    let base = Golden("llama_f16_tied_bias");
    let device = Device::flex().autodiff();
    let ids = Tensor::from_data(TensorData::new(vec![1, 7, 3, 9], [1, 4]), &Device::flex());
    for (quant, strategy) in [
        ("none", Strategy::Full),
        ("nf4", Strategy::Full),
        ("nf4", Strategy::Streaming),
    ] {
        for spec in [
            "lora:rank=4,alpha=8",
            "lora:rank=4,alpha=8,dora,rslora",
            "lora:rank=4,bias=all,targets=*.q_proj+*.v_proj",
            "lora:rank=2,targets=*.embed_tokens+linear",
            "lora:rank=2,dora,targets=*.embed_tokens+*.down_proj",
            "lora:rank=2,whole=lm_head",
        ] {
            let mut model = load(base, |config| {
                config.quant(quant.parse().expect(quant)).strategy(strategy)
            });
            let before = logits(&model, &ids);
            assert_eq!(adapter::trainable_params(&model), 0);
            let AdapterConfig::Lora(config) = spec.parse().expect(spec) else {
                panic!("{spec} is no folder");
            };
            adapter::add(&mut model, &config, &device).expect(spec);
            assert!(adapter::trainable_params(&model) > 0, "{spec}");
            let error = max_abs_difference(&logits(&model, &ids), &before);
            assert!(error <= 1e-4, "{quant}, {strategy}, {spec}: {error}");
        }
    }
}

/// Would catch an adapter of another model that is taken in part, or without a word.
#[test]
fn an_adapter_of_another_model_is_refused_by_name() {
    let device = Device::flex();
    let file = |name: &str| {
        AdapterFile::open(&repository().join("tests/golden/adapters").join(name)).expect(name)
    };
    let mut qwen = load(Golden("qwen3_bf16"), |config| config);
    let mut llama = load(Golden("llama_f32_tied"), |config| config);
    let shape =
        adapter::attach(&mut qwen, &file("llama_rslora"), 1.0, &device).expect_err("shapes");
    assert!(
        matches!(
            &shape,
            AdapterError::Shape { .. } | AdapterError::NoModule { .. }
        ),
        "{shape}"
    );
    let error = adapter::attach(&mut llama, &file("qwen3_dora"), 1.0, &device).expect_err("shapes");
    assert!(error.to_string().contains("another model"), "{error}");
    // Nothing of it stays on the model.
    assert!(adapter::adapters(&mut llama).is_empty());

    // Known from headers, before a weight is read.
    for (base, adapter) in [
        ("qwen3_bf16", "llama_rslora"),
        ("llama_f32_tied", "qwen3_dora"),
    ] {
        let folder = repository().join("tests/golden/adapters").join(adapter);
        let config = LoadConfig::new(Golden(base).path("").to_string_lossy());
        let loader = Loader::<Cpu>::new(config.adapter(AdapterConfig::folder(folder)));
        let planned = loader.expect(base).plan::<CausalLm>();
        let error = planned.map(drop).expect_err("another model");
        assert!(error.to_string().contains("another model"), "{error}");
    }

    let rank = LoraConfig::new(4096, 8.0);
    let error = adapter::add(&mut llama, &rank, &device).expect_err("a rank above the matrix");
    assert!(
        matches!(error, AdapterError::Rank { rank: 4096, .. }),
        "{error}"
    );
    let nothing = LoraConfig::new(2, 2.0).target("*.q_prjo".parse().expect("a pattern"));
    let error = adapter::add(&mut llama, &nothing, &device).expect_err("no such module");
    assert!(matches!(error, AdapterError::NoTarget { .. }), "{error}");
}

/// Tensors of the only file of a saved folder.
fn saved(folder: &std::path::Path, run: impl FnOnce(&SafeTensors<'_>)) {
    let bytes = fs::read(folder.join("model.safetensors")).expect("weights");
    run(&SafeTensors::deserialize(&bytes).expect("weights"));
}

/// Rows of a merged matrix are those of peft to the bit in the type of the checkpoint, and its logits peft's. Would catch a
/// rounding that peft does not do, or does elsewhere.
#[test]
fn merged_checkpoints_are_those_of_peft() {
    for folder in goldens() {
        let name = folder.display();
        let base = base_of(&folder);
        let bytes = fs::read(folder.join("logits.safetensors")).expect("logits");
        let tensors = SafeTensors::deserialize(&bytes).expect("logits");
        let to = tempfile::tempdir().expect("a folder");
        let config = LoadConfig::new(base.path("").to_string_lossy())
            .adapter(AdapterConfig::folder(&folder));
        let loader = Loader::<Cpu>::new(config).expect(base.0);
        loader
            .save::<CausalLm>(&SaveConfig::new(to.path()))
            .unwrap_or_else(|error| panic!("{name}: {error}"));

        let (ids, expected) = expected(&folder, "logits_merged_lowp");
        let first = ids.narrow(0, 0, 1);
        let config = LoadConfig::new(to.path().to_string_lossy()).dtype(DType::F32);
        let merged = Loader::<Cpu>::new(config).expect("a checkpoint");
        let merged: CausalLm = merged.load().expect("a checkpoint").model;
        let error = max_abs_difference(&logits(&merged, &first), &expected);
        assert!(error <= 1e-4, "{name}: {error}");

        saved(to.path(), |saved| {
            for tensor in tensors.names() {
                let Some(matrix) = tensor.strip_prefix("merged_lowp/") else {
                    continue;
                };
                let [found, expected] = [saved.tensor(matrix), tensors.tensor(tensor)]
                    .map(|tensor| tensor.expect(matrix));
                assert_eq!(found.dtype(), expected.dtype(), "{name}: {matrix}");
                let rows = expected.data().len();
                let differ = found.data()[..rows]
                    .chunks(2)
                    .zip(expected.data().chunks(2));
                let differ = differ.filter(|(found, expected)| found != expected).count();
                assert_eq!(differ, 0, "{name}: {matrix}, of {} values", rows / 2);
            }
        });
    }
}

/// In `f32` the last logits are peft's after a merge in `f32`. Would catch a change that is rounded to the type of the file.
#[test]
fn checkpoints_in_f32_are_merged_in_f32() {
    for folder in goldens() {
        let name = folder.display();
        let base = base_of(&folder);
        let to = tempfile::tempdir().expect("a folder");
        let config = LoadConfig::new(base.path("").to_string_lossy())
            .dtype(DType::F32)
            .adapter(AdapterConfig::folder(&folder));
        let loader = Loader::<Cpu>::new(config).expect(base.0);
        loader
            .save::<CausalLm>(&SaveConfig::new(to.path()))
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let (ids, expected) = expected(&folder, "logits_merged_f32");
        let merged = Loader::<Cpu>::new(LoadConfig::new(to.path().to_string_lossy()));
        let merged: CausalLm = merged.expect("a checkpoint").load().expect("loads").model;
        let found = logits(&merged, &ids.narrow(0, 0, 1));
        let error = max_abs_difference(&found[found.len() - expected.len()..], &expected);
        assert!(error <= 1e-4, "{name}: {error}");
    }
}

/// A base that is packed is unpacked, changed and packed again, in one pass. Would catch an adapter that is merged into
/// codes, or not at all.
#[test]
fn adapters_are_merged_into_packed_bases() {
    let folder = repository().join("tests/golden/adapters/llama_rslora");
    let base = base_of(&folder);
    let save = |from: &std::path::Path, ask: &dyn Fn(LoadConfig) -> LoadConfig| {
        let to = tempfile::tempdir().expect("a folder");
        let config = ask(LoadConfig::new(from.to_string_lossy()));
        let loader = Loader::<Cpu>::new(config).expect("a checkpoint");
        let saved = loader.save::<CausalLm>(&SaveConfig::new(to.path()));
        saved.map(|_| to)
    };
    let adapter = || AdapterConfig::folder(&folder);
    let nf4 = |config: LoadConfig| config.quant("nf4".parse().expect("a quantization"));
    let packed = save(&base.path(""), &nf4).expect("a save");

    let refused = save(packed.path(), &|config| config.adapter(adapter()));
    let error = refused.expect_err("packed weights").to_string();
    assert!(error.contains("--requantize"), "{error}");

    // In one pass, and in two over a dense checkpoint in f32.
    let once = save(packed.path(), &|config| {
        nf4(config).requantize(true).adapter(adapter())
    });
    let dense = save(packed.path(), &|config| {
        config.requantize(true).adapter(adapter())
    });
    let dense = dense.expect("a save");
    let twice = save(dense.path(), &nf4).expect("a save");
    let [once, twice] = [&once.expect("a save"), &twice]
        .map(|folder| fs::read(folder.path().join("model.safetensors")).expect("weights"));
    assert!(once == twice, "one pass and two differ");
}

/// Counted on the loaded model. Would catch a module that the plan counts and a load does not adapt, or the other way round, in
/// any family.
#[test]
fn plans_and_reports_count_what_adapters_keep() {
    let mut counted = 0;
    let count = |golden: Golden, adapter: AdapterConfig| {
        let name = format!("{}, {adapter}", golden.0);
        let config = LoadConfig::new(golden.path("").to_string_lossy()).adapter(adapter.clone());
        let loader = Loader::<Cpu>::new(config).expect(&name);
        let plan = match loader.plan::<CausalLm>() {
            Ok(plan) => plan,
            // Some heads have other names, and some routers have biases.
            Err(Error::Adapter(planned)) => {
                let mut plain = load(golden, |config| config);
                let AdapterConfig::Lora(lora) = &adapter else {
                    panic!("{name}: {planned}");
                };
                let added = adapter::add(&mut plain, lora, &Device::flex());
                let added = added.expect_err(&name);
                assert_eq!(
                    discriminant(&added),
                    discriminant(&planned),
                    "{name}: {added}"
                );
                return 0;
            }
            Err(error) => panic!("{name}: {error}"),
        };
        let [planned] = &plan.adapters[..] else {
            panic!("{name}: {:?}", plan.adapters);
        };
        assert_eq!(planned.bytes, 4 * planned.values, "{name}");
        // What the plan takes can be put on the model.
        let loaded = loader.load::<CausalLm>().expect(&name);
        assert_eq!(loaded.report.adapter_values, planned.values, "{name}");
        let mut model = loaded.model;
        adapter::trainable(&mut model, &Device::flex().autodiff());
        assert_eq!(adapter::trainable_params(&model), planned.values, "{name}");
        let text = plan.to_string();
        assert!(
            text.contains(&format!(": {} values", planned.values)),
            "{text}"
        );
        let read = Plan::from_json(&plan.to_json().expect(&name)).expect(&name);
        assert_eq!(read.adapters, plan.adapters, "{name}");
        1
    };
    for golden in models() {
        for spec in [
            "lora:rank=2",
            "lora:rank=2,dora,bias=all,targets=linear,whole=lm_head+*norm*",
            "lora:rank=1,dora,targets=*.down_proj+*.shared_expert_gate+*embed*",
            "lora:rank=1,targets=*.experts.*",
            "lora:rank=4096",
            "lora:rank=1,targets=role:router",
            "lora:rank=1,targets=*norm*",
            "lora:rank=1,targets=*.o_proj,whole=*.o_proj",
        ] {
            counted += count(golden, spec.parse().expect(spec));
        }
    }
    assert!(counted > 50, "{counted} counted");
    for folder in goldens() {
        assert_eq!(count(base_of(&folder), AdapterConfig::folder(&folder)), 1);
    }
}
