//! The head: that of the file or the embedding, and heads of other purposes.

use firebox::{
    Error, SaveConfig,
    model::{CausalLm, ConfigError},
    plan::PlanError,
};
use serde_json::json;
use tempfile::TempDir;

use crate::{
    common::Golden,
    draft::{Draft, is_like, load, loader, read, said, says},
};

const TIED: Golden = Golden("llama_f32_tied");
const UNTIED: Golden = Golden("llama_bf16_untied");
const HEAD: &str = "lm_head.weight";

/// transformers 5.23 compares the values of both and does not tie them where they differ (`tie_weights`). Catches a head that
/// is dropped because the configuration says so, and a warning that nobody sees.
#[test]
fn a_head_that_differs_from_the_embedding_is_the_head() {
    let folder = Draft::of(UNTIED).say("tie_word_embeddings", true).folder();
    let loaded = load(folder.path(), "none").expect("a model");
    assert!(is_like(&loaded.model, UNTIED));
    let [warning] = &loaded.report.warnings[..] else {
        panic!("{:?}", loaded.report.warnings);
    };
    says(warning, &[HEAD, "tie_word_embeddings"]);
    says(&loaded.report, &["warning: lm_head.weight"]);
    let plan = loader(folder.path(), "none").expect("a model");
    says(
        &plan.plan::<CausalLm>().expect("a plan"),
        &["warning: lm_head.weight"],
    );
}

/// One value of many differs: in the last of the bytes. Catches a comparison of samples.
#[test]
fn a_head_that_differs_in_its_last_bit_is_the_head() {
    let mut draft = Draft::of(TIED).copy("model.embed_tokens.weight", HEAD);
    let (.., bytes) = draft.tensors.get_mut(HEAD).expect("a head");
    let last = bytes.len() - 4;
    bytes[last] ^= 1;
    let loaded = load(draft.folder().path(), "none").expect("a model");
    assert!(loaded.model.head.is_some());
    assert_eq!(loaded.report.warnings.len(), 1);
}

#[test]
fn a_copy_of_the_embedding_is_no_head() {
    let folder = Draft::of(TIED)
        .copy("model.embed_tokens.weight", HEAD)
        .folder();
    let loaded = load(folder.path(), "none").expect("a model");
    assert!(is_like(&loaded.model, TIED) && loaded.model.head.is_none());
    assert_eq!(loaded.report.left_out, [HEAD]);
    assert!(loaded.report.warnings.is_empty());
}

/// Catches a saved model whose configuration ties the head again, in every dialect and as plain numbers.
#[test]
fn a_saved_model_says_that_its_head_is_its_own() {
    let folder = Draft::of(UNTIED).say("tie_word_embeddings", true).folder();
    let specs = [
        "none",
        "nf4",
        "mlx",
        "wna16:group=64",
        "fp8:e4m3,scale=block",
        "hqq",
    ];
    for quant in specs {
        let to = TempDir::new().expect("a folder");
        let to = to.path().join("saved");
        let loader = loader(folder.path(), quant).expect("a model");
        loader.save::<CausalLm>(&SaveConfig::new(&to)).expect(quant);
        assert_eq!(said(&to, "tie_word_embeddings"), json!(false), "{quant}");
        assert!(
            read(&to.join("model.safetensors")).contains_key(HEAD),
            "{quant}"
        );
        let again = load(&to, "none").expect(quant);
        assert!(again.model.head.is_some(), "{quant}");
        assert!(again.report.warnings.is_empty(), "{quant}");
    }
}

/// `safetensors.torch.save_model` keeps one of two names of a matrix, the first of the alphabet. transformers ties in either
/// direction.
#[test]
fn a_tied_model_may_have_its_matrix_under_the_name_of_the_head() {
    let draft = Draft::of(TIED).rename(|name| name.replace("model.embed_tokens.weight", HEAD));
    let folder = draft.folder();
    let loaded = load(folder.path(), "none").expect("a model");
    assert!(is_like(&loaded.model, TIED));
    assert!(
        loaded.report.left_out.is_empty(),
        "{:?}",
        loaded.report.left_out
    );
}

/// Catches a head that is taken from the embedding although the configuration says otherwise.
#[test]
fn an_untied_model_without_a_head_names_the_field() {
    for draft in [
        Draft::of(UNTIED),
        // The default of Llama.
        Draft::of(UNTIED).unsay("tie_word_embeddings"),
    ] {
        let error = draft.without(|name| name == HEAD).refused("none");
        assert!(
            matches!(error, Error::Plan(PlanError::Missing { .. })),
            "{error:?}"
        );
        says(&error, &[HEAD, "tie_word_embeddings", "true"]);
    }
}

/// A classifier in the clothes of a model that makes text. Catches a load whose text is nonsense, and a saved model without
/// what it was trained for.
#[test]
fn a_classifier_is_not_loaded_and_keeps_its_head_when_it_is_saved() {
    for class in [
        "LlamaForSequenceClassification",
        "LlamaForTokenClassification",
        "LlamaForQuestionAnswering",
        "LlamaForRewardModel",
    ] {
        let draft = Draft::of(TIED).zeros("score.weight", &[1, 128]);
        let draft = draft.say("architectures", json!([class]));
        let error = draft.refused("none");
        assert!(
            matches!(error, Error::Config(ConfigError::Purpose { .. })),
            "{error:?}"
        );
        says(&error, &[class, "quantized"]);

        let folder = draft.folder();
        let to = folder.path().join("saved");
        let loader = loader(folder.path(), "nf4").expect("a model");
        loader
            .save_tensors(&[], &SaveConfig::new(&to))
            .expect("a saved model");
        let saved = read(&to.join("model.safetensors"));
        assert_eq!(saved["score.weight"], draft.tensors["score.weight"]);
        assert!(saved.contains_key("model.layers.0.mlp.up_proj.weight.absmax"));
    }
    // What has both is a model that makes text.
    let classes = json!(["LlamaForCausalLM", "LlamaForSequenceClassification"]);
    let folder = Draft::of(TIED).say("architectures", classes).folder();
    load(folder.path(), "none").expect("a model");
}

/// Tensors that no slot takes: a classifier's, a value head's, a vision tower's, one that predicts further tokens. Catches a
/// dialect that loses them.
#[test]
fn a_saved_model_has_every_tensor_that_its_source_has() {
    let others = [
        ("score.weight", vec![3, 128]),
        ("classifier.out.bias", vec![3]),
        ("v_head.summary.weight", vec![1, 128]),
        ("lm_head.bias", vec![512]),
        ("model.mtp_block.proj.weight", vec![128, 128]),
        ("visual.blocks.0.attn.qkv.weight", vec![4, 2, 3]),
    ];
    let others = others.iter();
    let draft = others.fold(Draft::of(UNTIED), |draft, (name, shape)| {
        draft.zeros(name, shape)
    });
    let folder = draft.folder();
    for quant in [
        "none",
        "nf4",
        "mlx",
        "wna16:group=64",
        "fp8:e4m3,scale=block",
        "hqq",
    ] {
        let to = TempDir::new().expect("a folder");
        let to = to.path().join("saved");
        let loader = loader(folder.path(), quant).expect("a model");
        loader.save::<CausalLm>(&SaveConfig::new(&to)).expect(quant);
        let saved = read(&to.join("model.safetensors"));
        for name in draft.tensors.keys().filter(|name| !name.contains("layers")) {
            assert_eq!(saved.get(name), draft.tensors.get(name), "{quant}: {name}");
        }
    }
}
