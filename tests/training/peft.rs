//! What peft calls things, and what it computes that is not seen in logits.

use std::{collections::BTreeMap, fs, path::Path};

use burn::tensor::{Device, Int, Tensor, TensorData};
use firebox::{
    Cpu, Error, LoadConfig, Loader,
    adapter::{self, AdapterConfig, AdapterError, AdapterFile, AdapterSpecError, LoraConfig},
    config::{Expand, SaveConfig},
    model::{Architecture, CausalLm},
    target::DType,
};
use safetensors::{SafeTensors, tensor::TensorView};

use crate::{
    adapters::{base_of, expected, goldens, load, logits},
    common::{Golden, floats, max_abs_difference, repository},
};

fn golden(name: &str) -> std::path::PathBuf {
    repository().join("tests/golden/adapters").join(name)
}

/// The values of the tensors of an adapter, by name.
fn tensors(folder: &Path) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let bytes = fs::read(folder.join("adapter_model.safetensors")).expect("tensors");
    let tensors = SafeTensors::deserialize(&bytes).expect("tensors");
    let tensors = tensors.iter();
    tensors
        .map(|(name, view)| (name.to_owned(), (view.shape().to_vec(), floats(&view))))
        .collect()
}

/// Put on a model and taken off again, the file has the names, shapes and values that peft gave it. Would catch a name that peft
/// does not read, and a matrix that is written the other way round.
#[test]
fn what_is_taken_off_a_model_is_what_peft_has_put_on() {
    for folder in goldens() {
        let name = folder.display();
        let file = AdapterFile::open(&folder).unwrap_or_else(|error| panic!("{error}"));
        let mut model = load(base_of(&folder), |config| config);
        let switch = adapter::attach(&mut model, &file, 1.0, &Device::flex());
        let switch = switch.unwrap_or_else(|error| panic!("{error}"));
        let taken = adapter::detach(&mut model, &switch, &LoraConfig::new(2, 4.0), "base");
        let to = tempfile::tempdir().expect("a folder");
        let taken = taken.expect("the adapter that was put on");
        taken.save(to.path()).expect("a save");

        let (taken, mut put) = (tensors(to.path()), tensors(&folder));
        // Beside the text model, or of no use.
        put.retain(|tensor, _| {
            let mut left = ["vision_tower", "original_module", "modules_to_save"].into_iter();
            !left.any(|part| tensor.contains(part))
        });
        let [found, expected] = [&taken, &put].map(|it| it.keys().collect::<Vec<_>>());
        assert_eq!(found, expected, "{name}");
        for (tensor, values) in &put {
            assert!(taken[tensor] == *values, "{name}: {tensor}");
        }
    }
}

/// A file with other names, in another folder.
fn renamed(from: &Path, to: &Path, file: &str, rename: &dyn Fn(&str) -> String) {
    for config in ["config.json", "adapter_config.json"] {
        if from.join(config).exists() {
            fs::copy(from.join(config), to.join(config)).expect("copied");
        }
    }
    let bytes = fs::read(from.join(file)).expect(file);
    let tensors = SafeTensors::deserialize(&bytes).expect(file);
    let tensors = tensors.iter().map(|(name, view)| (rename(name), view));
    let bytes = safetensors::serialize(tensors, None).expect("a file");
    fs::write(to.join(file), bytes).expect("written");
}

/// Files of a model, and adapters, have the names of several libraries. Would catch a module that is not found, or found in the
/// wrong place, beside the weights and in them.
#[test]
fn adapters_are_read_under_the_names_of_several_libraries() {
    let same: &dyn Fn(&str) -> String = &str::to_owned;
    let hub: &dyn Fn(&str) -> String = &|name| name.replacen("transformer.", "", 1);
    let today: &dyn Fn(&str) -> String = &|name| {
        let name = name.replacen("language_model.model.", "model.language_model.", 1);
        name.replacen("vision_tower.vision_model.", "model.vision_tower.", 1)
    };
    let older: &dyn Fn(&str) -> String = &|name| {
        name.replacen(
            "model.model.language_model.",
            "model.language_model.model.",
            1,
        )
    };
    let stored: &dyn Fn(&str) -> String = &|name| name.replacen(".lm_head.", ".embed_out.", 1);
    for (name, of_model, of_adapter) in [
        ("gpt2_biases", hub, same),
        ("gemma3_mm_lora", today, same),
        ("gemma3_mm_lora", same, older),
        ("gpt_neox_head", same, stored),
    ] {
        let folder = golden(name);
        let [model, adapter, merged] = [(); 3].map(|()| tempfile::tempdir().expect("a folder"));
        let base = base_of(&folder).path("");
        renamed(&base, model.path(), "model.safetensors", of_model);
        renamed(
            &folder,
            adapter.path(),
            "adapter_model.safetensors",
            of_adapter,
        );
        // Full names are of one library.
        let (ids, expected) = expected(&folder, "logits_f32");
        let config = |folder: &Path| LoadConfig::new(folder.to_string_lossy()).dtype(DType::F32);
        let with = || config(model.path()).adapter(AdapterConfig::folder(adapter.path()));
        let loader = || Loader::<Cpu>::new(with()).expect(name);
        let beside = loader().load::<CausalLm>();
        let beside = beside.unwrap_or_else(|error| panic!("{name}: {error}"));
        let saved = loader().save::<CausalLm>(&SaveConfig::new(merged.path()));
        saved.unwrap_or_else(|error| panic!("{name}: {error}"));
        let merged = Loader::<Cpu>::new(config(merged.path())).expect(name);
        for model in [beside.model, merged.load().expect(name).model] {
            let error = max_abs_difference(&logits(&model, &ids), &expected);
            assert!(error <= 1e-4, "{name}: {error}");
        }
    }
}

/// Would catch norms of the columns of a table that are not constants, or not peft's, and a factor that gets the gradient of
/// another one.
#[test]
fn gradients_of_a_table_with_magnitudes_are_those_of_peft() {
    let folder = golden("qwen3_dora_embed");
    let file = AdapterFile::open(&folder).expect("an adapter");
    let device = Device::flex().autodiff();
    let mut model = load(base_of(&folder), |config| config.dtype(DType::F32));
    adapter::attach(&mut model, &file, 1.0, &Device::flex()).expect("it fits");
    adapter::trainable(&mut model, &device);
    let (ids, _) = expected(&folder, "logits_f32");
    let ids: Tensor<2, Int> = Tensor::from_data(ids.into_data(), &device);
    let gradients = model.forward(ids).square().mean().backward();

    let bytes = fs::read(folder.join("logits.safetensors")).expect("logits");
    let tensors = SafeTensors::deserialize(&bytes).expect("logits");
    let mut compared = 0;
    for mut place in model.adaptable() {
        let module = place.module().to_owned();
        for adapter in place.adapters().iter() {
            let factors = adapter.low_rank.as_ref().expect("factors");
            let magnitude = factors.magnitude.as_ref().expect("a magnitude");
            let flat = |gradient: TensorData| gradient.try_into_vec::<f32>().expect("f32");
            let gradient = |param: &burn::module::Param<Tensor<2>>| {
                flat(
                    param
                        .val()
                        .grad(&gradients)
                        .expect("a gradient")
                        .into_data(),
                )
            };
            let of_magnitude = magnitude.val().grad(&gradients).expect("a gradient");
            for (name, found) in [
                ("lora_embedding_A.default", gradient(&factors.a)),
                ("lora_embedding_B.default", gradient(&factors.b)),
                (
                    "lora_magnitude_vector.default.weight",
                    flat(of_magnitude.into_data()),
                ),
            ] {
                let name = format!("gradient/base_model.model.{module}.{name}");
                let expected = floats(&tensors.tensor(&name).expect(&name));
                let largest = expected
                    .iter()
                    .fold(0.0, |most: f32, it| most.max(it.abs()));
                let error = max_abs_difference(&found, &expected);
                assert!(error <= 1e-4 * largest, "{name}: {error} of {largest}");
                assert!(largest > 1e-3, "{name} has no gradient");
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 3);
}

/// Would catch a head that is left out of a merged model, or one that is tied again when the model is read.
#[test]
fn heads_that_come_apart_have_a_matrix_of_their_own() {
    for (name, is_apart) in [
        ("gpt2_head", true),
        ("gpt2_table", true),
        ("gemma3_tying", false),
        ("gemma3_tying_factors", false),
        ("gpt2_dora", false),
    ] {
        let folder = golden(name);
        let to = tempfile::tempdir().expect("a folder");
        let config = LoadConfig::new(base_of(&folder).path("").to_string_lossy());
        let loader = Loader::<Cpu>::new(config.adapter(AdapterConfig::folder(&folder)));
        let saved = loader
            .expect(name)
            .save::<CausalLm>(&SaveConfig::new(to.path()));
        saved.unwrap_or_else(|error| panic!("{name}: {error}"));
        let config = fs::read(to.path().join("config.json")).expect("a configuration");
        let config: serde_json::Value = serde_json::from_slice(&config).expect("JSON");
        let bytes = fs::read(to.path().join("model.safetensors")).expect("weights");
        let weights = SafeTensors::deserialize(&bytes).expect("weights");
        assert_eq!(weights.tensor("lm_head.weight").is_ok(), is_apart, "{name}");
        let tied = config["tie_word_embeddings"] != false;
        assert_eq!(tied, !is_apart, "{name}: {config}");
    }
}

/// Would catch one of two values that is taken without a word.
#[test]
fn two_values_for_one_bias_are_refused() {
    let folder = golden("gpt2_whole");
    let bytes = fs::read(folder.join("adapter_model.safetensors")).expect("tensors");
    let tensors = SafeTensors::deserialize(&bytes).expect("tensors");
    let other = vec![0; 24 * 4];
    let changed = tensors.iter().map(|(name, view)| {
        let other = TensorView::new(view.dtype(), vec![24], &other).expect("a bias");
        match name.ends_with("ln_f.modules_to_save.bias")
            || name.ends_with("h.0.attn.c_proj.modules_to_save.bias")
        {
            true => (name, other),
            false => (name, view),
        }
    });
    let to = tempfile::tempdir().expect("a folder");
    let changed = safetensors::serialize(changed, None).expect("a file");
    fs::write(to.path().join("adapter_model.safetensors"), changed).expect("written");
    let config = "adapter_config.json";
    fs::copy(folder.join(config), to.path().join(config)).expect("copied");
    let error = AdapterFile::open(to.path()).expect_err("two biases");
    assert!(matches!(&error, AdapterError::Twice { .. }), "{error}");
    assert!(error.to_string().contains("c_proj.bias"), "{error}");
}

/// Would catch an option that wins over another one without a word.
#[test]
fn options_that_contradict_each_other_are_refused() {
    for (spec, option) in [
        ("lora:rank=8,rank=16", "rank"),
        ("lora:r=8,rank=8", "rank"),
        ("lora:targets=*.q_proj,targets=*.v_proj", "targets"),
        ("lora:dora,dora", "dora"),
    ] {
        let error = spec.parse::<AdapterConfig>().expect_err(spec);
        let named =
            matches!(&error, AdapterSpecError::Twice { option: named, .. } if named == option);
        assert!(named, "{spec}: {error}");
    }
    let mut model = load(Golden("llama_f32_tied"), |config| config);
    for (spec, refused) in [
        ("lora:rank=2,targets=*.o_proj,whole=*.o_proj", true),
        ("lora:rank=2,targets=*.q_proj+lm_head,whole=lm_head", true),
        ("lora:rank=2,targets=*.{q,o}_proj,whole=*.o_proj", false),
    ] {
        let AdapterConfig::Lora(config) = spec.parse().expect(spec) else {
            panic!("{spec} is no folder");
        };
        match adapter::add(&mut model, &config, &Device::flex().autodiff()) {
            Err(error) if refused => {
                let named = matches!(&error, AdapterError::TargetsWhole { .. });
                assert!(named, "{spec}: {error}");
            }
            added => assert!(added.is_ok() && !refused, "{spec}: {added:?}"),
        }
    }
}

/// An adapter of the model before its expansion has other numbers of layers. Would catch a change that goes to other layers than
/// it was trained for.
#[test]
fn adapters_of_a_model_before_its_expansion_are_refused() {
    let folder = golden("qwen3_embed");
    let base = base_of(&folder);
    let config = || {
        let config = LoadConfig::new(base.path("").to_string_lossy());
        config.adapter(AdapterConfig::folder(&folder))
    };
    let layers = load(base, |config| config).blocks.len();
    let expanded = || config().expand(Expand::blocks(1));
    let loader = || Loader::<Cpu>::new(expanded()).expect(base.0);
    let to = tempfile::tempdir().expect("a folder");
    let refused = |result: Result<(), Error>| match result {
        // A copy after the last layer leaves the numbers of the others as they are: the file then lacks the last.
        Err(Error::Adapter(
            AdapterError::BeforeExpansion { .. } | AdapterError::Incomplete { .. },
        )) => {}
        other => panic!("{other:?}"),
    };
    refused(loader().load::<CausalLm>().map(drop));
    refused(
        loader()
            .save::<CausalLm>(&SaveConfig::new(to.path()))
            .map(drop),
    );

    // With names in full, the file lacks nothing.
    let named = tempfile::tempdir().expect("a folder");
    let mut model = load(base, |config| config);
    let spec = "lora:rank=2,targets=*.q_proj".parse().expect("an adapter");
    let AdapterConfig::Lora(lora) = spec else {
        panic!("{spec} is no folder");
    };
    let switch = adapter::add(&mut model, &lora, &Device::flex()).expect("it fits");
    let file = adapter::detach(&mut model, &switch, &lora, base.0).expect("the adapter");
    file.save(named.path()).expect("a save");
    let expanded = LoadConfig::new(base.path("").to_string_lossy())
        .expand(Expand::blocks(layers))
        .adapter(AdapterConfig::folder(named.path()));
    let loader = Loader::<Cpu>::new(expanded).expect(base.0);
    let error = loader.load::<CausalLm>().expect_err("other layers");
    let said = error.to_string();
    assert!(
        matches!(
            &error,
            Error::Adapter(AdapterError::BeforeExpansion { new_blocks, .. })
                if new_blocks.len() == layers
        ),
        "{error}"
    );
    for part in ["firebox merge", "\"firebox_new_blocks\": ["] {
        assert!(said.contains(part), "{said}");
    }

    // The configuration may say that it was trained so.
    let config = named.path().join("adapter_config.json");
    let text = fs::read_to_string(&config).expect("a configuration");
    let mut json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    json["firebox_new_blocks"] = loader.new_blocks().into();
    fs::write(&config, json.to_string()).expect("written");
    let loaded = loader.load::<CausalLm>().expect("an adapter of this model");
    let ids = Tensor::from_data(TensorData::new(vec![1, 7, 3], [1, 3]), &Device::flex());
    assert!(logits(&loaded.model, &ids).iter().all(|it| it.is_finite()));
}
