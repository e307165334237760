//! `firebox eval`: perplexity against the reference, window by window.

use std::fs;

use serde_json::json;
use tempfile::TempDir;

use crate::{
    common::repository,
    logits::logits,
    run::{Copied, SPECS, TINYRUST, json, refuse, succeed},
};

/// The slow one: 45 seconds without optimisation. The numbers are PyTorch's. Would catch text that is
/// tokenized by window, a begin token, windows that overlap, a first token that is scored.
#[test]
fn perplexity_is_that_of_the_reference() {
    let score = json(&["eval", TINYRUST, "--text", "assets/tinyrust-sample.txt"]);
    let perplexity = score["perplexity"].as_f64().expect("a number");
    assert!(
        (perplexity - 31.271488875716702).abs() < 1e-3,
        "{perplexity}"
    );
    assert_eq!(score["tokens"], 20070);
    assert_eq!(score["context"], 512);
}

/// The first characters of the sample, in a file, and their ids, without special tokens.
fn sample(folder: &TempDir, characters: usize) -> (String, Vec<u32>) {
    let root = repository();
    let text = fs::read_to_string(root.join("assets/tinyrust-sample.txt")).expect("the sample");
    let text: String = text.chars().take(characters).collect();
    let path = folder.path().join("text.txt");
    fs::write(&path, &text).expect("written");

    let tokenizer = tokenizers::Tokenizer::from_file(root.join(TINYRUST).join("tokenizer.json"));
    let encoded = tokenizer.expect("a tokenizer").encode(text, false);
    let ids = encoded.expect("text").get_ids().to_vec();
    (path.to_str().expect("UTF-8").to_owned(), ids)
}

/// Perplexity by the rule, the plainest way: windows of `context` tokens, each a forward pass of its own
/// and its first token not scored. With it the tokens that were scored.
fn by_the_rule(ids: &[u32], context: usize) -> (f64, usize) {
    let mut scores = Vec::new();
    for window in ids.chunks(context) {
        let (logits, shape) = logits(TINYRUST, window);
        for (t, row) in logits.chunks(shape[1]).enumerate().take(window.len() - 1) {
            let total: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
            let next = window[t + 1] as usize;
            scores.push(total.ln() - f64::from(row[next]));
        }
    }
    let mean = scores.iter().sum::<f64>() / scores.len() as f64;
    (mean.exp(), scores.len())
}

/// Would catch a last window that is dropped, padded, or joined to the one before, and one of a single
/// token that is counted, or divides by zero.
#[test]
fn windows_are_cut_by_the_documented_rule() {
    let folder = TempDir::new().expect("a temporary folder");
    let (text, ids) = sample(&folder, 330);
    let n = ids.len();
    let contexts = [
        // The last window is shorter, a single token, as long as the others; there is only one.
        (n * 2 / 5, n - 3),
        (n - 1, n - 2),
        (n.div_ceil(2), n - 2),
        (n, n - 1),
    ];
    for (context, scored) in contexts {
        let context_text = context.to_string();
        let score = json(&[
            "eval",
            TINYRUST,
            "--text",
            &text,
            "--context",
            &context_text,
        ]);
        let (expected, tokens) = by_the_rule(&ids, context);
        assert_eq!((tokens, &score["tokens"]), (scored, &json!(scored)));
        let found = score["perplexity"].as_f64().expect("a number");
        // The sums differ in their last bits: one subtracts the largest logit first.
        assert!(
            (found / expected - 1.0).abs() < 1e-6,
            "{context}: {found} {expected}"
        );
    }
}

/// Would catch a window longer than the model's positions.
#[test]
fn a_window_is_at_most_the_models_context() {
    let model = Copied::tinyrust().config("max_position_embeddings", 40);
    let folder = TempDir::new().expect("a temporary folder");
    let (text, ids) = sample(&folder, 330);
    let score = json(&["eval", model.path(), "--text", &text]);
    assert_eq!(score["context"], 40);
    assert_eq!(score["tokens"], ids.len() - ids.len().div_ceil(40));
    let same = json(&["eval", TINYRUST, "--text", &text, "--context", "40"]);
    assert_eq!(score["perplexity"], same["perplexity"]);
}

/// 704 features are no whole groups of 128. Would catch a table that is lost to its last row, after hours.
#[test]
fn a_quantization_that_cannot_be_is_refused_before_another_is_measured() {
    let folder = TempDir::new().expect("a temporary folder");
    let (text, _) = sample(&folder, 600);
    let arguments = [
        "eval", TINYRUST, "--text", &text, "--quant", "nf4", "--quant", "wna16",
    ];
    refuse(
        1,
        &arguments,
        &["--quant wna16:bits=4,group=128", "704", "128"],
    );
}

/// Several quantizations are a table for people and a list for scripts. Would catch one that is measured
/// with the weights of another, and one that breaks the model: 4 and 8 bits change the perplexity of this
/// model by less than 5 %.
#[test]
fn several_quantizations_are_compared() {
    let folder = TempDir::new().expect("a temporary folder");
    let (text, ids) = sample(&folder, 600);
    let mut arguments = vec!["eval", TINYRUST, "--text", &text, "--context", "100"];
    arguments.extend(SPECS.iter().flat_map(|spec| ["--quant", spec]));

    let scores = json(&arguments);
    let scores = scores.as_array().expect("a list");
    assert_eq!(scores.len(), SPECS.len());
    let perplexity = |k: usize| scores[k]["perplexity"].as_f64().expect("finite");
    for (k, spec) in SPECS.iter().enumerate() {
        assert_eq!(scores[k]["tokens"], ids.len() - ids.len().div_ceil(100));
        let ratio = perplexity(k) / perplexity(0);
        assert!((0.95..1.05).contains(&ratio), "{spec}: {ratio}");
        for earlier in 0..k {
            assert_ne!(perplexity(k), perplexity(earlier), "{spec}");
        }
    }
    // See `load_reports_the_bytes_that_the_config_implies`: 8 x 1,658,880 bits for 2,949,120 weights.
    assert_eq!(scores[1]["bits_per_weight"], 4.5);

    let table = succeed(&arguments).stdout;
    let rows: Vec<&str> = table.lines().collect();
    assert_eq!(rows.len(), 2 + SPECS.len(), "{table}");
    assert!(rows[0].starts_with("| quant"), "{table}");
    for (row, score) in rows[2..].iter().zip(scores) {
        let quant = score["quant"].as_str().expect("text");
        let perplexity = format!(" {:.3} ", score["perplexity"].as_f64().expect("finite"));
        assert!(row.contains(quant) && row.contains(&perplexity), "{table}");
    }
}

/// Would catch a perplexity of `null` and an exit code of 0, and a window that is counted wrong: the row of
/// one token is no number, and it comes in the second window first.
#[test]
fn a_score_that_is_no_number_fails_with_its_window() {
    let text = "To create a new package, run the program and read its output.";
    let model = Copied::golden("llama_bf16_untied");
    let tokenizer = tokenizers::Tokenizer::from_file(model.file("tokenizer.json"));
    let encoded = tokenizer.expect("a tokenizer").encode(text, false);
    let ids = encoded.expect("text").get_ids().to_vec();
    assert!(ids.len() > 16 && !ids[..9].contains(&ids[9]), "{ids:?}");
    let model = model.with_nan("model.embed_tokens.weight", ids[9] as usize * 256);
    let file = model.file("text.txt");
    fs::write(&file, text).expect("written");
    let file = file.to_str().expect("UTF-8");

    let parts = [
        file,
        "window 1, tokens 8 to 15",
        "NaN",
        "weights",
        "--dtype",
    ];
    for more in [&[][..], &["--json"]] {
        let eval = ["eval", model.path(), "--text", file, "--context", "8"];
        refuse(1, &[&eval, more].concat(), &parts);
    }
    // The first window alone is sound.
    fs::write(file, "To create").expect("written");
    succeed(&["eval", model.path(), "--text", file, "--context", "8"]);

    let model = Copied::tinyrust().with_nan("model.layers.3.mlp.down_proj.weight", 1000);
    let eval = ["eval", model.path(), "--text", file, "--quant", "none"];
    refuse(1, &eval, &["window 0, tokens 0 to", "NaN"]);
}
