//! Commands that need no architecture, with a checkpoint of one that nobody knows.

use serde_json::json;
use tempfile::TempDir;

use crate::run::{Copied, json as answer, refuse, succeed};

/// Would catch a command that asks for a family where files say enough, and one that does not where weights are to compute.
#[test]
fn an_unknown_architecture_is_inspected_planned_quantized_verified_and_converted() {
    let model = Copied::golden("mistral_bf16").config("model_type", "rwkv");
    let folder = TempDir::new().expect("a folder");
    let out = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    let [packed, plain] = ["packed", "plain"].map(out);

    assert_eq!(
        answer(&["inspect", model.path()])["config"]["model_type"],
        "rwkv"
    );
    let plan = answer(&["plan", model.path(), "--quant=nf4"]);
    assert_eq!(plan["totals"]["tensors"], 21);
    // Two layers of seven matrices; the embedding and the head stay dense.
    assert_eq!(plan["totals"]["packed"], 14);
    let named = answer(&["plan", model.path(), "--quant=nf4", "--include=*.mlp.*"]);
    assert_eq!(named["totals"]["packed"], 6);

    succeed(&["quantize", model.path(), "--quant=nf4", "--out", &packed]);
    let report = answer(&[
        "verify",
        &packed,
        "--against",
        model.path(),
        "--min-sqnr=15",
    ]);
    assert_eq!(report["tensors"].as_array().expect("a list").len(), 21);
    succeed(&["convert", &packed, "--dequantize", "--out", &plain]);
    let back = answer(&["inspect", &plain]);
    let list = |of: &serde_json::Value| {
        let tensors = of["tensors"].as_array().expect("a list").iter();
        let mut tensors: Vec<_> = tensors
            .map(|it| json!([it["name"], it["dtype"], it["shape"]]).to_string())
            .collect();
        tensors.sort();
        tensors
    };
    assert_eq!(list(&back), list(&answer(&["inspect", model.path()])));
    assert_eq!(back["config"]["quantization_config"], json!(null));

    // Packed values are a source where that is said.
    let (again, refused) = (out("again"), out("refused"));
    let asked = ["quantize", &packed, "--quant=mlx:bits=4,group=32", "--out"];
    refuse(
        1,
        &[&asked[..], &[&refused]].concat(),
        &["--requantize", "nf4:block=64"],
    );
    succeed(&[&asked[..], &[&again, "--requantize"]].concat());
    let plan = answer(&["plan", &packed, "--quant=int8", "--requantize"]);
    let becomes = |quant: &str| {
        let tensors = plan["tensors"].as_array().expect("a list").iter();
        tensors.filter(|tensor| tensor["quant"] == quant).count()
    };
    assert_eq!(becomes("nf4:block=64 → int8"), 14);

    for command in ["load", "eval", "logits"] {
        let rest: &[&str] = match command {
            "eval" => &["--text", "Cargo.toml"],
            "logits" => &["--tokens=1,2", "--out", &plain],
            _ => &[],
        };
        refuse(1, &[&[command, &packed], rest].concat(), &["rwkv"]);
    }
}

/// A folder of weights without a configuration is taken as it is.
#[test]
fn a_folder_without_a_configuration_is_quantized() {
    let model = Copied::golden("mistral_bf16").without("config.json");
    let folder = TempDir::new().expect("a folder");
    let out = folder.path().join("out");
    let out = out.to_str().expect("UTF-8");
    succeed(&["quantize", model.path(), "--quant=nf4", "--out", out]);
    let report = answer(&["verify", out, "--against", model.path()]);
    assert_eq!(report["tensors"].as_array().expect("a list").len(), 21);
}
