//! `--expand`: logits, plans, saves, and numbers that do not go.

use std::fs;

use serde_json::Value;
use tempfile::TempDir;

use crate::run::{Copied, json, refuse, succeed};

/// Four layers.
const MODEL: &str = "llama_bf16_untied";

/// What `generate` prints, without chance.
fn generated(arguments: &[&str]) -> String {
    let base = ["generate", "--prompt", "fn main", "-n", "12"];
    succeed(&[&base[..], arguments].concat()).stdout
}

/// Every command reads the same expanded model. Would catch one that drops the option.
#[test]
fn every_command_expands() {
    let model = Copied::golden(MODEL);
    let path = model.path();
    let plan = json(&["plan", path, "--expand", "blocks=2", "--quant", "nf4"]);
    assert_eq!(plan["new_blocks"], serde_json::json!([2, 5]));
    let tensors = plan["tensors"].as_array().expect("tensors");
    let named = |name: &str| {
        tensors
            .iter()
            .filter(|tensor| tensor["name"] == name)
            .count()
    };
    assert_eq!(named("model.layers.5.mlp.down_proj.weight"), 1);
    assert_eq!(named("model.layers.6.mlp.down_proj.weight"), 0);

    let verified = |more: &[&str]| {
        let report = json(&[&["verify", path, "--quant", "nf4"], more].concat());
        report["tensors"].as_array().map_or(0, Vec::len)
    };
    let [all, more] = [&[][..], &["--expand", "blocks=2"]].map(verified);
    assert_eq!(more * 4, all * 6);
    let loaded = json(&["load", path, "--expand", "blocks=4"]);
    let layers = loaded["per_tensor"].as_array().expect("tensors").iter();
    let last = layers.filter(|tensor| {
        let name = tensor["name"].as_str().expect("a name");
        name.starts_with("model.layers.7.")
    });
    assert_eq!(last.count(), 9);

    let tinyrust = Copied::tinyrust();
    let expanded = [tinyrust.path(), "--expand", "blocks=2"];
    assert_eq!(generated(&expanded), generated(&[tinyrust.path()]));
}

/// The dense checkpoint, with a folder that was begun before: written once, compared with its source, and told by name.
#[test]
fn expanded_checkpoints_are_saved() {
    let model = Copied::golden(MODEL);
    let folder = TempDir::new().expect("a folder");
    for (name, command) in [
        ("converted", &["convert", model.path()][..]),
        ("plain", &["quantize", model.path(), "--quant", "none"]),
        ("packed", &["quantize", model.path(), "--quant", "nf4"]),
    ] {
        let out = folder.path().join(name).display().to_string();
        let options = [
            "--expand",
            "blocks=2",
            "--out",
            &out,
            "--shard-size",
            "100KB",
        ];
        succeed(&[command, &options].concat());
        // A complete folder is left as it is.
        succeed(&[command, &options, &["--resume"]].concat());
        let other = [
            "--expand",
            "blocks=4",
            "--out",
            &out,
            "--shard-size",
            "100KB",
            "--resume",
        ];
        refuse(1, &[command, &other].concat(), &["num_hidden_layers"]);

        let config = fs::read(folder.path().join(name).join("config.json")).expect("a file");
        let config: Value = serde_json::from_slice(&config).expect("JSON");
        assert_eq!(config["num_hidden_layers"], 6);
        assert_eq!(config["firebox_new_blocks"], serde_json::json!([2, 5]));
        let index = folder
            .path()
            .join(name)
            .join("model.safetensors.index.json");
        let index: Value = serde_json::from_slice(&fs::read(index).expect("a file")).expect("JSON");
        let map = index["weight_map"].as_object().expect("a map");
        assert!(
            map.contains_key("model.layers.5.input_layernorm.weight"),
            "{name}"
        );
        assert!(
            !map.contains_key("model.layers.6.input_layernorm.weight"),
            "{name}"
        );

        let plan = json(&["plan", &out]);
        assert_eq!(plan["new_blocks"], serde_json::json!([2, 5]));
        // The model that it was made from is expanded for the comparison.
        succeed(&["verify", &out, "--against", model.path()]);
    }
}

#[test]
fn numbers_that_do_not_go_are_refused() {
    let model = Copied::golden(MODEL);
    let with = |expand: &'static str| ["plan", model.path(), "--expand", expand];
    refuse(
        1,
        &with("blocks=3"),
        &["4 layers", "3 new blocks", "1, 2, 4"],
    );
    refuse(
        1,
        &with("dense"),
        &["no new blocks", "--expand blocks=N,dense"],
    );
    refuse(2, &with("blocks=0"), &["blocks=0", "blocks=8"]);
}
