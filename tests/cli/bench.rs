//! `firebox bench`: what it counts. Seconds are never tested.

use std::fs;

use safetensors::SafeTensors;
use serde_json::Value;

use crate::{
    common::Golden,
    run::{refuse, succeed},
};

/// Would catch the embedding counted as read by each token, or a head that is not; and a round too many or too few.
#[test]
fn bytes_of_a_token_are_those_of_the_file_without_the_embedding() {
    let golden = Golden("llama_bf16_untied");
    let model = golden.path("");
    let model = model.to_str().expect("UTF-8");
    let counts = ["--prompt-tokens", "5", "--new-tokens", "2", "--rounds", "3"];
    let found = succeed(&[&["bench", model, "--json"], &counts[..]].concat());
    let found: Value = serde_json::from_str(&found.stdout).expect("JSON");

    let mut bytes = 0;
    for shard in 1..=6 {
        let name = format!("model-{shard:05}-of-00006.safetensors");
        let file = fs::read(golden.path(&name)).expect("it is there");
        let file = SafeTensors::deserialize(&file).expect("a safetensors file");
        let tensors = file.tensors().into_iter();
        let multiplied = tensors.filter(|(name, tensor)| {
            tensor.shape().len() == 2 && name != "model.embed_tokens.weight"
        });
        bytes += multiplied
            .map(|(_, tensor)| tensor.data().len())
            .sum::<usize>();
    }
    assert_eq!(found["bytes_per_token"], bytes);

    assert_eq!(found["prompt_tokens"], 5);
    assert_eq!(found["new_tokens"], 2);
    let rounds = found["rounds"].as_array().expect("a list");
    assert_eq!(rounds.len(), 3);
    let positive = |of: &Value, key: &str| of[key].as_f64().is_some_and(|value| value > 0.0);
    assert!(
        rounds
            .iter()
            .all(|round| positive(round, "seconds") && positive(round, "prompt_seconds"))
    );
    assert!(positive(&found, "tokens_per_second") && positive(&found, "prompt_tokens_per_second"));
}

#[test]
fn counts_that_cannot_be_are_refused() {
    let golden = Golden("llama_bf16_untied");
    let model = golden.path("");
    let model = model.to_str().expect("UTF-8");
    let none = ["bench", model, "--rounds", "0"];
    refuse(2, &none, &["--rounds", "whole number"]);
    // More positions than the model has: refused before weights are read.
    refuse(
        1,
        &["bench", model, "--prompt-tokens", "100000"],
        &["100064"],
    );
}
