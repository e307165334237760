//! Files that name the tensors of a model otherwise than most: saved without a head, inside a multimodal model, with
//! tables that are computed.

use std::{fs, sync::Arc};

use firebox::{Cpu, LoadConfig, Loader, model::CausalLm, source::Memory, target::DType};
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
