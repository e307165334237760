//! Tensors by other names than those of the model.

use firebox::{Error, plan::PlanError};

use crate::{
    common::Golden,
    draft::{Draft, load, says},
};

const GOLDEN: Golden = Golden("llama_f32_tied");

/// As peft names what it trains: the matrices of the base under `base_layer`, and two small ones beside each.
fn training_checkpoint() -> Draft {
    let named = |name: &str| {
        let name = name.replace("q_proj.weight", "q_proj.base_layer.weight");
        format!("base_model.model.{name}")
    };
    let layer = "base_model.model.model.layers.0.self_attn.q_proj";
    Draft::of(GOLDEN)
        .rename(named)
        .zeros(&format!("{layer}.lora_A.default.weight"), &[2, 128])
        .zeros(&format!("{layer}.lora_B.default.weight"), &[128, 2])
}

/// Catches advice about shards that are missing.
#[test]
fn a_training_checkpoint_of_peft_is_called_one() {
    let error = training_checkpoint().refused("none");
    assert!(
        matches!(error, Error::Plan(PlanError::Adapter { .. })),
        "{error:?}"
    );
    says(
        &error,
        &[
            "peft",
            "lora_A.default.weight",
            "base_layer.weight",
            "merge_and_unload",
        ],
    );
}

/// Catches an adapter beside a whole model that is left out with a warning.
#[test]
fn an_adapter_beside_a_whole_model_is_refused() {
    let layer = "model.layers.0.self_attn.q_proj";
    let error = Draft::of(GOLDEN)
        .zeros(&format!("{layer}.lora_A.default.weight"), &[2, 128])
        .refused("none");
    assert!(
        matches!(error, Error::Plan(PlanError::Adapter { .. })),
        "{error:?}"
    );
}

/// Catches an error that shows one side alone.
#[test]
fn other_names_are_shown_beside_those_that_are_wanted() {
    let error = Draft::of(GOLDEN)
        .rename(|name| name.replace('.', "_"))
        .refused("none");
    assert!(
        matches!(error, Error::Plan(PlanError::Missing { .. })),
        "{error:?}"
    );
    says(
        &error,
        &[
            "38 of 38",
            "model.embed_tokens.weight",
            "model_embed_tokens_weight",
            "model_type",
        ],
    );
}

/// Catches a model that is cut to its first layers, and one that is said to be incomplete.
#[test]
fn another_number_of_layers_names_the_field() {
    for (said, first) in [
        (2, "model.layers.2.input_layernorm.weight"),
        (6, "model.layers.4.input_layernorm.weight"),
    ] {
        let error = Draft::of(GOLDEN)
            .say("num_hidden_layers", said)
            .refused("none");
        let Error::Plan(PlanError::Layers {
            found: 4, expected, ..
        }) = error
        else {
            panic!("{error:?}");
        };
        assert_eq!(expected, said);
        says(
            &error,
            &["num_hidden_layers", "4", &said.to_string(), first],
        );
    }
    let gpt2 = Draft::of(Golden("gpt2_f32"));
    let layers = gpt2.config["n_layer"].as_u64().expect("a number");
    says(
        &gpt2.say("n_layer", layers + 1).refused("none"),
        &["`n_layer`"],
    );
}

/// What `load` leaves out is in the report, by name.
#[test]
fn heads_of_other_purposes_are_reported() {
    let others = ["score.weight", "v_head.summary.weight", "lm_head.bias"];
    let draft = others.iter().fold(Draft::of(GOLDEN), |draft, name| {
        draft.zeros(name, &[1, 128])
    });
    let report = load(draft.folder().path(), "none").expect("a model").report;
    let mut left_out = report.left_out.clone();
    left_out.sort();
    assert_eq!(
        left_out,
        ["lm_head.bias", "score.weight", "v_head.summary.weight"]
    );
}
