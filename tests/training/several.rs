//! Several adapters on one model, and files of adapters that contradict themselves.

use std::{fs, path::Path};

use firebox::{
    Cpu, Error, LoadConfig, Loader, adapter::AdapterConfig, config::SaveConfig, model::CausalLm,
    target::DType,
};
use serde_json::{Value, json};

use crate::{
    adapters::{base_of, expected, load, logits},
    common::{Golden, max_abs_difference, repository},
};

fn golden(name: &str) -> std::path::PathBuf {
    repository().join("tests/golden/adapters").join(name)
}

/// A merged checkpoint computes what the model computes with the same adapters beside its weights. Would catch an adapter that
/// replaces, or is measured against, what another one has changed.
#[test]
fn adapters_that_are_merged_together_add_up() {
    for (one, other) in [
        ("qwen3_dora", "qwen3_dora"),
        ("llama_rslora", "llama_norms"),
        ("llama_norms", "llama_norms"),
        ("gpt2_biases", "gpt2_norms"),
        ("llama_bias_lora", "llama_bias_lora"),
        ("qwen3_dora_embed", "qwen3_dora_embed"),
        ("gpt2_whole", "gpt2_biases"),
        ("gpt2_table", "gpt2_head"),
    ] {
        let base = base_of(&golden(one));
        let (ids, _) = expected(&golden(one), "logits_merged_f32");
        let ids = ids.narrow(0, 0, 1);
        let with_both = |config: LoadConfig| {
            let half = |name| AdapterConfig::Folder {
                folder: golden(name),
                weight: 0.5,
            };
            let config = config.dtype(DType::F32);
            config.adapter(half(one)).adapter(half(other))
        };
        let beside = logits(&load(base, with_both), &ids);

        let to = tempfile::tempdir().expect("a folder");
        let config = with_both(LoadConfig::new(base.path("").to_string_lossy()));
        let loader = Loader::<Cpu>::new(config).expect(base.0);
        loader
            .save::<CausalLm>(&SaveConfig::new(to.path()))
            .unwrap_or_else(|error| panic!("{one}, {other}: {error}"));
        let merged = Loader::<Cpu>::new(LoadConfig::new(to.path().to_string_lossy()));
        let merged: CausalLm = merged.expect("a checkpoint").load().expect("loads").model;
        let error = max_abs_difference(&logits(&merged, &ids), &beside);
        assert!(error <= 1e-4, "{one}, {other}: {error}");
    }
}

/// An adapter of `from` whose configuration has other values.
fn changed(from: &str, to: &Path, fields: &Value) {
    let config = fs::read(golden(from).join("adapter_config.json")).expect("a configuration");
    let mut config: Value = serde_json::from_slice(&config).expect("JSON");
    for (field, value) in fields.as_object().expect("fields") {
        config[field] = value.clone();
    }
    let text = serde_json::to_string(&config).expect("JSON");
    fs::write(to.join("adapter_config.json"), text).expect("writable");
    let weights = "adapter_model.safetensors";
    fs::copy(golden(from).join(weights), to.join(weights)).expect("copied");
}

/// Would catch a configuration that is believed, or not, without a word where the tensors say something else.
#[test]
fn configurations_that_do_not_fit_their_tensors_are_refused() {
    for (fields, part) in [
        (json!({ "target_modules": ["nope"] }), "does not target"),
        (json!({ "exclude_modules": ["q_proj"] }), "does not target"),
        (json!({ "use_rslora": "yes" }), "`use_rslora` is \"yes\""),
        (json!({ "bias": "some" }), "`bias` is \"some\""),
        (json!({ "lora_dropout": 1.5 }), "`lora_dropout` is 1.5"),
        (json!({ "target_modules": 5 }), "`target_modules` is 5"),
        (json!({ "lora_alpha": "16" }), "`lora_alpha` is \"16\""),
        (json!({ "lora_alpha": null }), "`lora_alpha` is null"),
        (json!({ "r": null }), "`r` is null"),
        (
            json!({ "init_lora_weights": "xavier" }),
            "`init_lora_weights` is \"xavier\"",
        ),
        (
            json!({ "init_lora_weights": "pissa_niter_4" }),
            "it changes the matrices",
        ),
        (json!({ "task_type": "SEQ_CLS" }), "CAUSAL_LM"),
        (json!({ "kasa_config": { "beta": 0.1 } }), "`kasa_config`"),
        (
            json!({ "modules_to_save": ["norm", "o_proj"] }),
            "no whole weight",
        ),
        (
            json!({ "modules_to_save": ["norm", "classifier"] }),
            "names classifier",
        ),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        changed("llama_norms", folder.path(), &fields);
        let [beside, merged] = on_and_into("llama_bf16_untied", folder.path());
        for said in [beside, merged] {
            let said = said.expect_err("a contradiction").to_string();
            assert!(said.contains(part), "{fields}: `{said}` lacks `{part}`");
        }
    }
}

/// What comes of an adapter beside the weights of a model, and in them.
fn on_and_into(base: &'static str, folder: &Path) -> [Result<(), Error>; 2] {
    let config = || {
        let config = LoadConfig::new(Golden(base).path("").to_string_lossy());
        config.adapter(AdapterConfig::folder(folder))
    };
    let to = tempfile::tempdir().expect("a folder");
    let loader = || Loader::<Cpu>::new(config()).expect(base);
    [
        loader().load::<CausalLm>().map(drop),
        loader()
            .save::<CausalLm>(&SaveConfig::new(to.path()))
            .map(drop),
    ]
}

/// Would catch a value of peft that is refused.
#[test]
fn values_that_say_nothing_of_the_tensors_are_read() {
    for fields in [
        json!({ "init_lora_weights": "gaussian" }),
        json!({ "init_lora_weights": false }),
        json!({ "init_lora_weights": "orthogonal" }),
        json!({ "use_rslora": null, "use_dora": null, "task_type": null }),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        changed("llama_norms", folder.path(), &fields);
        for read in on_and_into("llama_bf16_untied", folder.path()) {
            read.unwrap_or_else(|error| panic!("{fields}: {error}"));
        }
    }
}
