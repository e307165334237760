//! Files that name the tensors of a model otherwise than most: saved without a head, inside a multimodal model, with
//! tables that are computed.

use std::{fs, sync::Arc};

use firebox::{
    Cpu, LoadConfig, Loader, SaveConfig, model::CausalLm, source::Memory, target::DType,
};
use safetensors::{SafeTensors, tensor::TensorView};
use serde_json::{Value, json};

use super::common::{Golden, ids, max_abs_difference, values};

/// A golden model of one file, its tensors renamed, with tensors of other names beside them.
fn renamed(golden: Golden, rename: impl Fn(&str) -> String, others: &[&str]) -> Loader<Cpu> {
    with_config(golden, golden.json("config.json"), rename, others)
}

/// The same with another `config.json`.
fn with_config(
    golden: Golden,
    config: Value,
    rename: impl Fn(&str) -> String,
    others: &[&str],
) -> Loader<Cpu> {
    let file = |name| fs::read(golden.path(name)).expect(name);
    let weights = file("model.safetensors");
    let weights = SafeTensors::deserialize(&weights).expect("a golden file");
    let tensors = weights.iter().map(|(name, view)| (rename(name), view));
    let table = [0; 16];
    let table = TensorView::new(safetensors::Dtype::U8, vec![16], &table).expect("16 bytes");
    let others = others
        .iter()
        .map(|name| ((*name).to_owned(), table.clone()));
    let weights = safetensors::serialize(tensors.chain(others), None).expect("a file");
    let source = Memory::new()
        .with("config.json", config.to_string().into_bytes())
        .with("model.safetensors", weights);
    let config = LoadConfig::default()
        .dtype(DType::F32)
        .source(Arc::new(source));
    Loader::new(config).expect(golden.0)
}

/// A prefix in place of another.
fn instead(name: &str, prefix: &str, other: &str) -> String {
    match name.strip_prefix(prefix) {
        Some(rest) => format!("{other}{rest}"),
        None => name.to_owned(),
    }
}

/// The files of openai-community's GPT-2 are of the model without its head; transformers 4 and 5 name a text model inside
/// another in two ways. Catches a prefix that is looked for in every name, the head's too, and a model whose tensors are
/// all missing.
#[test]
fn names_may_begin_otherwise() {
    let cases = [
        ("gpt2_f32", "transformer.", "", ""),
        ("starcoder2_bf16", "model.", "", ""),
        ("mistral_bf16", "model.", "model.language_model.", ""),
        (
            "mistral_bf16",
            "model.",
            "language_model.model.",
            "language_model.",
        ),
    ];
    for (golden, usual, body, head) in cases {
        let golden = Golden(golden);
        let rename = |name: &str| {
            let name = instead(name, usual, body);
            instead(&name, "lm_head", &format!("{head}lm_head"))
        };
        let model = renamed(golden, rename, &[]).load::<CausalLm>();

        let logits = model
            .expect(golden.0)
            .model
            .forward(ids(&golden.ids("input_ids")));

        let (expected, _) = golden.floats("logits_f32");
        let error = max_abs_difference(&values(logits), &expected);
        assert!(error < 1e-4, "{} {body:?}: {error}", golden.0);
    }
}

/// Prefixes that torch, trainers and modules around a model put before names; a body of another name; names inside a multimodal model where
/// `config.json` is that of the text model. The report says it, and what is saved has the names of the model, which Python loads.
#[test]
fn names_behind_a_prefix_are_those_of_the_model() {
    // A golden model, what its names begin with, and what the names of the file begin with.
    let cases = [
        ("llama_f16_tied_bias", "", "_orig_mod."),
        ("llama_f16_tied_bias", "", "module."),
        ("llama_f16_tied_bias", "", "model."),
        ("llama_f16_tied_bias", "model.", "backbone."),
        ("llama_f16_tied_bias", "model.", "model._orig_mod."),
        ("qwen2_bf16_tied", "", "module._orig_mod."),
        ("mistral_bf16", "", "_orig_mod."),
        ("mistral_bf16", "model.", "model.model."),
        ("mistral_bf16", "model.", "model.language_model."),
        ("mistral_bf16", "", "language_model."),
        ("gpt2_f32", "", "_orig_mod."),
        ("gpt2_f32", "transformer.", "module.transformer."),
        ("gpt_oss_bf16", "", "module."),
    ];
    for (golden, usual, other) in cases {
        let golden = Golden(golden);
        let loader = renamed(golden, |name| instead(name, usual, other), &["stray.table"]);
        let named = |names: &mut Vec<String>| {
            names.sort();
            names.clone()
        };

        let loaded = loader.load::<CausalLm>().expect(other);
        let folder = tempfile::tempdir().expect("a folder");
        let to = SaveConfig::new(folder.path());
        loader.save::<CausalLm>(&to).expect(other);

        let logits = loaded.model.forward(ids(&golden.ids("input_ids")));
        let (expected, _) = golden.floats("logits_f32");
        let error = max_abs_difference(&values(logits), &expected);
        assert!(
            error < golden.tolerance(),
            "{} {other:?}: {error}",
            golden.0
        );
        let [note] = &loaded.report.warnings[..] else {
            panic!("{other:?}: {:?}", loaded.report.warnings);
        };
        assert!(note.contains("begin with `"), "{note}");
        assert!(loaded.report.to_string().contains(note.as_str()));
        let plan = loader.plan::<CausalLm>().expect("a plan");
        assert_eq!(&plan.warnings(), &loaded.report.warnings);
        assert!(plan.to_string().contains(note.as_str()));
        assert_eq!(plan.unexpected, ["stray.table"]);
        let saved = fs::read(folder.path().join("model.safetensors")).expect("a file");
        let saved = SafeTensors::deserialize(&saved).expect("a file");
        let mut saved: Vec<String> = saved.names().into_iter().map(ToString::to_string).collect();
        let mut own: Vec<String> = golden.shapes().into_iter().map(|(name, _)| name).collect();
        own.push("stray.table".to_owned());
        assert_eq!(named(&mut saved), named(&mut own), "{other:?}");
    }
}

/// Names that are those of the model say nothing, whatever else lies in the file. Would catch a copy that was averaged while training
/// (`ema.`) and is taken for the model.
#[test]
fn names_of_the_model_win_and_two_other_sets_are_refused() {
    let golden = Golden("mistral_bf16");
    let twice = |first: &'static str, second: &'static str| {
        let bytes = fs::read(golden.path("model.safetensors")).expect("a golden file");
        let weights = SafeTensors::deserialize(&bytes).expect("a golden file");
        let prefixes = [first, second].into_iter();
        let tensors = prefixes.flat_map(|prefix| {
            let tensors = weights.iter();
            tensors.map(move |(name, view)| (format!("{prefix}{name}"), view))
        });
        let tensors: Vec<_> = tensors.collect();
        let weights = safetensors::serialize(tensors, None).expect("a file");
        let source = Memory::new()
            .with("config.json", golden.json("config.json").to_string())
            .with("model.safetensors", weights);
        let config = LoadConfig::default().source(Arc::new(source));
        Loader::<Cpu>::new(config)
            .expect("a checkpoint")
            .plan::<CausalLm>()
    };
    let plan = twice("", "ema.").expect("the names of the model");
    assert!(plan.warnings().is_empty() && plan.missing.is_empty());
    assert!(plan.unexpected.iter().all(|name| name.starts_with("ema.")));
    let error = twice("ema.", "module.")
        .expect_err("two models")
        .to_string();
    assert!(
        error.contains("`ema.`") && error.contains("`module.`"),
        "{error}"
    );
}

/// Catches a bias of attention that passes for a table of masks, and a table that passes for a sign of another model.
#[test]
fn computed_tables_are_left_out_by_name() {
    let tables = [
        "transformer.h.0.attn.bias",
        "transformer.h.1.attn.masked_bias",
    ];
    let loader = renamed(Golden("gpt2_f32"), str::to_owned, &tables);

    let plan = loader.plan::<CausalLm>().expect("a plan");

    assert_eq!(plan.unused, tables);
    assert!(plan.unexpected.is_empty() && plan.missing.is_empty());
}

/// The file has what reads pictures beside the text model. Catches a tensor that is dropped in silence, one that passes for
/// a sign of another model, and a tensor of the text model that passes for one of the pictures.
#[test]
fn what_reads_pictures_is_left_out_by_name() {
    let golden = Golden("gemma3_mm_bf16");
    let tensors = golden.shapes().into_iter().map(|(name, _)| name);
    let mut others: Vec<String> = tensors
        .filter(|name| !name.starts_with("language_model."))
        .collect();
    others.sort();
    assert!(others.len() > 10, "{others:?}");
    let loader = renamed(golden, str::to_owned, &[]);

    let plan = loader.plan::<CausalLm>().expect("a plan");
    let report = loader.load::<CausalLm>().expect("a model").report;

    let mut unused = plan.unused.clone();
    unused.sort();
    assert_eq!(unused, others);
    assert!(plan.unexpected.is_empty() && plan.missing.is_empty());
    assert_eq!(report.left_out, plan.unused);
    let more = format!("and {} more tensors", others.len() - 1);
    assert!(report.to_string().contains(&more), "{report}");
}

/// A multimodal Mistral says nothing about its head, which transformers takes for tied, and has one in the file; its
/// `text_config` says nothing about its family. Catches a head that is dropped as a copy of the embedding.
#[test]
fn a_multimodal_model_keeps_the_head_that_its_file_has() {
    let golden = Golden("mistral_bf16");
    let mut text = golden.json("config.json");
    let fields = text.as_object_mut().expect("an object");
    fields.remove("model_type");
    fields.remove("tie_word_embeddings");
    let config = json!({"model_type": "mistral3", "text_config": text});
    let rename = |name: &str| format!("language_model.{name}");
    let others = ["vision_tower.patch_conv.weight"];
    let loader = with_config(golden, config, rename, &others);

    let loaded = loader.load::<CausalLm>().expect(golden.0);

    assert_eq!(loaded.report.left_out, others);
    let logits = loaded.model.forward(ids(&golden.ids("input_ids")));
    let (expected, _) = golden.floats("logits_f32");
    let error = max_abs_difference(&values(logits), &expected);
    assert!(error < 1e-4, "{error}");
}
