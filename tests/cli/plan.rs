//! `firebox plan` and `firebox inspect`, which read no weights.

use std::fs;

use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::{
    common::repository,
    run::{Copied, TINYRUST, json, program, run, succeed},
};

/// Would catch a field that is renamed: scripts read these. The sizes are worked out beside
/// `load_reports_the_bytes_that_the_config_implies` in `load.rs`.
#[test]
fn plan_has_the_documented_fields() {
    let plan = json(&["plan", TINYRUST, "--quant", "nf4"]);
    assert_eq!(plan["model"], TINYRUST);
    assert_eq!(plan["target"], "cpu");
    assert_eq!(plan["dtype"], "f32");
    assert_eq!(plan["halves"], json!(["bf16"]));
    // A model of a few megabytes fits everywhere.
    assert_eq!(plan["strategy"], "full");
    let reason = plan["strategy_reason"].as_str().expect("text");
    assert!(reason.contains("2.59 MiB of weights"), "{reason}");
    let totals = json!({
        "tensors": 38,
        "packed": 28,
        "bytes_source": 6_951_424,
        "bytes_kept": 2_716_672,
    });
    assert_eq!(plan["totals"], totals);
    for list in ["missing", "unused", "unexpected"] {
        assert_eq!(plan[list], json!([]), "{list}");
    }
    let tensors = plan["tensors"].as_array().expect("a list");
    assert_eq!(tensors.len(), 38);
    let down = tensors
        .iter()
        .find(|tensor| tensor["name"] == "model.layers.0.mlp.down_proj.weight")
        .expect("a tensor of the model");
    let expected = json!({
        "name": "model.layers.0.mlp.down_proj.weight",
        "shape": [256, 704],
        "role": "linear",
        "file": "model-00001-of-00003.safetensors",
        "offset": down["offset"],
        "quant": "nf4:block=64",
        "bytes_read": 360_448,
        "bytes_kept": 101_376,
    });
    assert_eq!(*down, expected);
    assert!(down["offset"].is_u64(), "{down}");
}

/// Would catch an incomplete checkpoint whose plan cannot be looked at, or one that passes for a good
/// one.
#[test]
fn a_plan_that_cannot_be_carried_out_is_printed_and_fails() {
    let model = Copied::golden("mistral_bf16").lacking("model.norm.weight");
    let ran = run(&mut program(&["plan", model.path()]));
    assert_eq!(ran.code, Some(1));
    for part in ["missing: model.norm.weight", "20 tensors, 0 packed"] {
        assert!(ran.stdout.contains(part), "{}", ran.stdout);
    }
    assert!(ran.stderr.starts_with("error: "), "{}", ran.stderr);
    for part in ["1 of 21", "model.norm.weight"] {
        assert!(ran.stderr.contains(part), "{}", ran.stderr);
    }

    let ran = run(&mut program(&["plan", model.path(), "--json"]));
    assert_eq!(ran.code, Some(1));
    let plan: Value = serde_json::from_str(&ran.stdout).expect("one JSON value");
    assert_eq!(plan["missing"], json!(["model.norm.weight"]));
}

/// Would catch a field that is renamed, and places in files that are not where the bytes are.
#[test]
fn inspect_has_the_documented_fields() {
    let found = json(&["inspect", TINYRUST]);
    assert_eq!(found["model"], TINYRUST);
    assert_eq!(found["config"]["hidden_size"], 256);
    // As the file system says.
    let files = [
        ("model-00001-of-00003.safetensors", 2_886_432_u64),
        ("model-00002-of-00003.safetensors", 2_953_136),
        ("model-00003-of-00003.safetensors", 1_116_008),
    ];
    let metadata = json!({ "format": "pt" });
    let listed =
        files.map(|(name, bytes)| json!({ "name": name, "bytes": bytes, "metadata": metadata }));
    assert_eq!(found["files"], json!(listed));
    assert_eq!(found["bytes"], 2_886_432 + 2_953_136 + 1_116_008);

    let tensors = found["tensors"].as_array().expect("a list");
    assert_eq!(tensors.len(), 38);
    for tensor in tensors {
        let field = |name: &str| tensor[name].as_u64().expect("a number") as usize;
        let file = tensor["file"].as_str().expect("text");
        let name = tensor["name"].as_str().expect("text");
        let path = repository().join(TINYRUST).join(file);
        let bytes = fs::read(path).expect("a shard");
        let shard = SafeTensors::deserialize(&bytes).expect("a shard");
        let view = shard.tensor(name).expect(name);
        assert_eq!(tensor["dtype"], "BF16");
        assert_eq!(tensor["shape"], json!(view.shape()));
        let there = &bytes[field("offset")..][..field("bytes")];
        assert!(there == view.data(), "{name}: other bytes");
    }

    let people = succeed(&["inspect", TINYRUST, "--tensors"]).stdout;
    for part in [
        "llama, 38 tensors, 6.63 MiB in 3 files",
        "hidden_size: 256",
        "| BF16 |",
        "| model.layers.3.mlp.up_proj.weight",
    ] {
        assert!(people.contains(part), "{people}");
    }
}
