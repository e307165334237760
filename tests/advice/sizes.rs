//! Sizes of `config.json` that are not those of the tensors.

use firebox::{Error, plan::PlanError};

use crate::{
    common::Golden,
    draft::{Draft, says},
};

const GOLDEN: Golden = Golden("llama_f32_tied");

/// Each field with another value than that of the weights, and what the error has to say: field, both numbers, tensor. Catches
/// "of different models" alone.
#[test]
fn a_size_that_differs_names_its_field_and_both_numbers() {
    let cases: &[(&str, u64, &[&str])] = &[
        (
            "vocab_size",
            500,
            &["`vocab_size` is 500", "512", "embed_tokens.weight"],
        ),
        (
            "head_dim",
            16,
            &[
                "`num_key_value_heads` × `head_dim` is 32",
                "64",
                "k_proj.weight",
            ],
        ),
        (
            "num_key_value_heads",
            1,
            &["`num_key_value_heads` × `head_dim` is 32", "64", "k_proj"],
        ),
        (
            "num_attention_heads",
            8,
            &["`num_attention_heads` × `head_dim` is 256", "128", "o_proj"],
        ),
        (
            "intermediate_size",
            100,
            &["`intermediate_size` is 100", "192", "down_proj"],
        ),
        (
            "hidden_size",
            96,
            &["`hidden_size` is 96", "128", "embed_tokens"],
        ),
    ];
    for (field, value, words) in cases {
        let error = Draft::of(GOLDEN).say(field, *value).refused("none");
        assert!(
            matches!(error, Error::Plan(PlanError::Shape { .. })),
            "{field}: {error:?}"
        );
        says(&error, words);
        says(&error, &["model.safetensors"]);
    }
}
