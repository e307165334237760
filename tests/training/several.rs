//! Several adapters on one model, and files of adapters that contradict themselves.

use std::{fs, path::Path};

use burn::tensor::Device;
use firebox::{
    Cpu, LoadConfig, Loader,
    adapter::{self, AdapterConfig, AdapterError, AdapterFile, LoraConfig},
    config::SaveConfig,
    model::CausalLm,
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
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        changed("llama_norms", folder.path(), &fields);
        let base = Golden("llama_bf16_untied");
        let mut model = load(base, |config| config);
        let said = AdapterFile::open(folder.path())
            .and_then(|file| adapter::attach(&mut model, &file, 1.0, &Device::flex()).map(drop))
            .expect_err("a contradiction")
            .to_string();
        assert!(said.contains(part), "{fields}: `{said}` lacks `{part}`");
    }
}

/// Would catch a run whose adapter nobody can read: peft has the norms of columns for embeddings.
#[test]
fn embeddings_have_no_magnitudes() {
    let mut model = load(Golden("llama_f32_tied"), |config| config);
    let lora = LoraConfig::new(2, 2.0).dora(true);
    let lora = lora.target("*.embed_tokens".parse().expect("a pattern"));
    let error = adapter::add(&mut model, &lora, &Device::flex().autodiff()).expect_err("a table");
    assert!(
        matches!(error, AdapterError::NotAdaptable { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("embed_tokens"), "{error}");
}
