//! Files that name the tensors of a model otherwise than most: saved without a head, inside a multimodal model, with
//! tables that are computed.

use std::{fs, sync::Arc};

use firebox::{Cpu, LoadConfig, Loader, model::CausalLm, source::Memory, target::DType};
use safetensors::{SafeTensors, tensor::TensorView};

use super::common::{Golden, ids, max_abs_difference, values};

/// A golden model of one file, its tensors renamed, with tensors of other names beside them.
fn renamed(golden: Golden, rename: impl Fn(&str) -> String, others: &[&str]) -> Loader<Cpu> {
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
        .with("config.json", file("config.json"))
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
