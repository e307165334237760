//! `firebox generate`: text against transformers, draws, chat.

use std::fs;

use serde_json::Value;

use crate::{
    common::Golden,
    run::{Copied, SPECS, TINYRUST, json, succeed},
};

const PROMPT: &str = "To create a new package, run";

/// What transformers 5.23 says after [`PROMPT`], greedily, in f32.
const CONTINUATION: &str = " the crate, and the\nsubgen is not a special problem, and the compiler is\n\
    installed.\n\nThe Rust programs can be used to";

fn generated(model: &str, more: &[&str]) -> Value {
    json(&[&["generate", model, "--prompt", PROMPT][..], more].concat())
}

/// Would catch nearly anything between the file and the text: a begin token left out, a piece of text
/// lost between tokens, the prompt repeated.
#[test]
fn the_continuation_is_that_of_transformers() {
    let answer = generated(TINYRUST, &["--max-new-tokens", "40"]);
    assert_eq!(answer["text"], CONTINUATION);
    assert_eq!(answer["prompt"], PROMPT);
    assert_eq!(answer["tokens"].as_array().expect("a list").len(), 40);
    assert_eq!(answer["stop"], "max-new-tokens");
    assert_eq!(answer["load"]["tensors"], 38);
}

/// The same greedy text on targets of this build, dense and packed. Would catch whatever a target
/// computes differently than rounding allows, and a program that takes another target than it is told.
#[cfg(any(
    feature = "cuda",
    feature = "vulkan",
    feature = "metal",
    feature = "ndarray"
))]
#[test]
fn every_target_says_the_same() {
    let targets: &[&str] = &[
        #[cfg(feature = "cuda")]
        "cuda",
        #[cfg(feature = "vulkan")]
        "vulkan",
        #[cfg(feature = "metal")]
        "metal",
        #[cfg(feature = "ndarray")]
        "ndarray",
    ];
    for quant in ["none", "nf4"] {
        let options = ["-n=24", "--dtype=f32", "--quant", quant];
        let cpu = generated(TINYRUST, &options);
        for target in targets {
            let answer = generated(TINYRUST, &[&options[..], &["--target", target]].concat());
            assert_eq!(answer["text"], cpu["text"], "{target} {quant}");
            assert_eq!(answer["load"]["target"], *target);
        }
    }
}

/// The vocabulary in the files of GPT-2 alone, here and in what `quantize` writes. Would catch a loader that looks for
/// `tokenizer.json` only, and a saved model that lost its vocabulary.
#[test]
fn vocab_and_merges_are_enough_and_are_carried_over() {
    let model = Copied::tinyrust();
    let path = model.file("tokenizer.json");
    let whole: Value = serde_json::from_slice(&fs::read(path).expect("copied")).expect("JSON");
    let whole = &whole["model"];
    let merges = whole["merges"].as_array().expect("a list").iter();
    let merges = merges.map(|merge| {
        let half = |at: usize| merge[at].as_str().expect("text");
        format!("{} {}\n", half(0), half(1))
    });
    let config = r#"{"tokenizer_class": "GPT2Tokenizer", "add_bos_token": true, "bos_token": "<|begin|>",
        "eos_token": "<|end|>", "unk_token": null}"#;
    let files = [
        ("vocab.json", whole["vocab"].to_string()),
        (
            "merges.txt",
            format!("#version: 0.2\n{}", merges.collect::<String>()),
        ),
        ("tokenizer_config.json", config.to_owned()),
    ];
    let model = model.without("tokenizer.json");
    for (file, text) in &files {
        fs::write(model.file(file), text).expect("written");
    }
    let answer = generated(model.path(), &["-n", "40"]);
    assert_eq!(answer["text"], CONTINUATION);
    let made_from = "vocab.json and merges.txt (byte pairs) as GPT2Tokenizer";
    assert_eq!(answer["load"]["tokenizer"], made_from);

    let saved = model.file("saved");
    let to = saved.to_str().expect("UTF-8");
    succeed(&["quantize", model.path(), "--out", to, "--quant", "nf4"]);
    for (file, text) in &files {
        assert_eq!(
            &fs::read_to_string(saved.join(file)).expect("carried over"),
            text
        );
    }
    let answer = generated(to, &["-n", "4"]);
    assert_eq!(answer["load"]["tokenizer"], made_from);
}

/// Would catch a report that ends up in the text when stdout is a file.
#[test]
fn people_read_the_text_on_stdout_and_the_report_on_stderr() {
    let ran = succeed(&["generate", TINYRUST, "--prompt", PROMPT, "-n", "40"]);
    assert_eq!(ran.stdout, format!("{PROMPT}{CONTINUATION}\n"));
    for part in ["38 tensors, 6.63 MiB read", "40 tokens in"] {
        assert!(ran.stderr.contains(part), "{}", ran.stderr);
    }
}

/// Would catch a seed that is ignored, or taken from the clock.
#[test]
fn a_seed_draws_the_same_text_again_and_another_seed_another() {
    let draw = |seed| {
        let answer = generated(TINYRUST, &["-n=12", "--temperature=1", "--seed", seed]);
        answer["text"].clone()
    };
    assert_eq!(draw("1"), draw("1"));
    assert_ne!(draw("1"), draw("2"));
    // The narrowest draw is no draw.
    let narrow = generated(TINYRUST, &["-n=12", "--top-k=1", "--seed=5"]);
    let greedy = CONTINUATION.strip_prefix(narrow["text"].as_str().expect("text"));
    assert!(greedy.is_some(), "{narrow}");
}

/// Would catch a spec that loads and answers nothing, or noise: the first words that each says are
/// still words.
#[test]
fn every_quantization_speaks() {
    for spec in SPECS {
        let answer = generated(TINYRUST, &["-n", "12", "--quant", spec]);
        let text = answer["text"].as_str().expect("text");
        let letters = text.chars().filter(|c| c.is_ascii_alphabetic()).count();
        assert!(letters >= 10, "{spec}: {text:?}");
    }
}

/// Would catch tokens beyond the model's positions, whose text is noise: of 256 positions two are the
/// prompt's, and the last token needs none.
#[test]
fn a_full_context_ends_the_text() {
    let mistral = Golden("mistral_bf16").path("");
    let mistral = mistral.to_str().expect("UTF-8");
    let answer = json(&["generate", mistral, "--prompt", "a", "-n", "400"]);
    assert_eq!(answer["stop"], "context-full");
    assert_eq!(answer["prompt_tokens"], 2);
    assert_eq!(answer["tokens"].as_array().expect("a list").len(), 255);
}

/// Would catch a template that is printed, applied without its generation prompt, or given a second
/// begin token.
#[test]
fn chat_wraps_the_prompt_in_the_template() {
    let model = Copied::tinyrust();
    let template = "{{ bos_token }}{% for message in messages %}<{{ message.role }}> {{ message.content }}\n\
        {% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
    fs::write(model.file("chat_template.jinja"), template).expect("written");

    let chat = json(&[
        "generate",
        model.path(),
        "--chat",
        "--prompt",
        "What is a crate?",
        "-n",
        "8",
    ]);
    let written_out = "<user> What is a crate?\n<assistant>";
    let plain = json(&["generate", TINYRUST, "--prompt", written_out, "-n", "8"]);
    assert_eq!(chat["tokens"], plain["tokens"]);
    assert_eq!(chat["prompt_tokens"], plain["prompt_tokens"]);
    assert_eq!(chat["prompt"], "What is a crate?");
}
