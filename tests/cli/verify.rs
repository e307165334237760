//! `firebox verify`, and `quantize` with limits.

use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    common::Golden,
    run::{Copied, TINYRUST, json, program, refuse, run, succeed},
};

/// Would catch a field that is renamed: scripts read these. NF4's relative error of normal numbers is some 0.09.
#[test]
fn verify_has_the_documented_fields() {
    let report = json(&["verify", TINYRUST, "--quant", "nf4", "--skip", "*.mlp.*"]);
    assert_eq!(report["model"], TINYRUST);
    assert_eq!(report["against"], Value::Null);
    assert_eq!(report["target"], "cpu");
    assert_eq!(report["failed"], json!([]));
    assert_eq!(report["rules"], json!([]));
    let tensors = report["tensors"].as_array().expect("a list");
    assert_eq!(tensors.len(), 16, "four layers of four matrices");
    let lowest = |field: &str| {
        let numbers = tensors.iter().map(|t| t[field].as_f64().expect("a number"));
        numbers.fold(f64::INFINITY, f64::min)
    };
    let worst = tensors.iter().find(|t| t["name"] == report["worst"]);
    assert_eq!(worst.expect("of the list")["sqnr_db"], lowest("sqnr_db"));
    let q = tensors
        .iter()
        .find(|t| t["name"] == "model.layers.0.self_attn.q_proj.weight")
        .expect("a matrix of the model");
    let fields: Vec<&String> = q.as_object().expect("an object").keys().collect();
    let expected = [
        "name",
        "shape",
        "quant",
        "max_error",
        "mean_error",
        "relative_error",
        "cosine",
        "sqnr_db",
        "compared",
        "saturated",
        "nonfinite_source",
        "nonfinite_result",
        "beyond",
        "fallback",
    ];
    assert_eq!(fields, expected);
    assert_eq!(q["shape"], json!([256, 256]));
    assert_eq!(q["quant"], "nf4:block=64");
    assert_eq!(q["compared"], 65_536);
    assert_eq!(q["fallback"], Value::Null);
    let relative = q["relative_error"].as_f64().expect("a number");
    assert!((0.08..0.1).contains(&relative), "{relative}");
    let decibels = q["sqnr_db"].as_f64().expect("a number");
    assert!((decibels + 20.0 * relative.log10()).abs() < 1e-9);
}

/// Would catch a failure without the report, and tensors that are not named.
#[test]
fn a_weight_beyond_a_limit_fails_by_name() {
    let of = "model.layers.2.mlp.up_proj.weight";
    let model = Copied::tinyrust().with_nan(of, 300);
    let arguments = ["verify", model.path(), "--quant=int8", "--max-relative=0.5"];
    let ran = run(&mut program(&arguments));
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let expected = format!("error: 1 of 28 weights are beyond the limits: {of}\n");
    assert_eq!(ran.stderr, expected);
    let line = format!("beyond: {of}: ");
    assert!(ran.stdout.contains(&line), "{}", ran.stdout);
    assert!(ran.stdout.contains("not finite"), "{}", ran.stdout);

    let ran = run(program(&arguments).arg("--json"));
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let report: Value = serde_json::from_str(&ran.stdout).expect("one JSON value");
    assert_eq!(report["failed"], json!([of]));
    assert_eq!(report["limits"]["max_relative"], 0.5);

    // Nothing is asked of weights that are skipped, nor without a limit.
    succeed(&["verify", model.path(), "--quant=int8"]);
    succeed(&[&arguments[..], &["--skip", of]].concat());
}

/// The rules that are printed are what a load wants: with them nothing is beyond any more.
#[test]
fn fallbacks_become_rules_that_hold() {
    let asked = ["verify", TINYRUST, "--quant=nf4", "--min-sqnr=20.7"];
    let ran = run(&mut program(&asked));
    assert_eq!(ran.code, Some(1), "some are below: {ran:?}");
    let fallback = [&asked[..], &["--fallback=fp8:e4m3,scale=channel"]].concat();
    let text = succeed(&fallback).stdout;
    let rules: Vec<&str> = text
        .lines()
        .filter_map(|l| l.strip_prefix("--rule "))
        .collect();
    let report = json(&fallback);
    assert_eq!(report["rules"], json!(rules));
    assert!((1..28).contains(&rules.len()), "{rules:?}");
    let rules: Vec<String> = rules.iter().map(|rule| format!("--rule={rule}")).collect();
    let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
    let ran = succeed(&[&asked[..], &rules[..]].concat());
    assert!(!ran.stdout.contains("beyond:"), "{}", ran.stdout);
}

/// Would catch fallbacks that are found and not written, and files that are written before all is known.
#[test]
fn quantize_writes_the_fallbacks() {
    let folder = TempDir::new().expect("a folder");
    let out = folder.path().join("out");
    let out = out.to_str().expect("UTF-8");
    let asked = [
        "quantize",
        TINYRUST,
        "--quant=nf4",
        "--min-sqnr=20.7",
        "--out",
        out,
    ];
    refuse(1, &asked, &["beyond the limits", ".self_attn."]);
    assert!(!fs::exists(out).expect("a folder"), "nothing is written");

    let saved = json(&[&asked[..], &["--fallback=none"]].concat());
    assert_eq!(saved["dialect"], "bitsandbytes");
    let rules = saved["verified"]["rules"].as_array().expect("a list");
    assert!((1..28).contains(&rules.len()), "{rules:?}");
    let plan = json(&["plan", out]);
    let tensors = plan["tensors"].as_array().expect("a list");
    let quant = |name: &str| {
        let tensor = tensors.iter().find(|t| t["name"] == name);
        tensor.expect(name)["quant"].clone()
    };
    for tensor in saved["verified"]["tensors"].as_array().expect("a list") {
        let name = tensor["name"].as_str().expect("a name");
        let below = tensor["sqnr_db"].as_f64().expect("a number") < 20.7;
        let rule = json!(format!("{name}=none"));
        assert_eq!(rules.contains(&rule), below, "{name}");
        let expected = if below { "none" } else { "nf4:block=64" };
        assert_eq!(quant(name), expected, "{name}");
    }

    // What was written is as far from its source as was said.
    let report = json(&["verify", out, "--against", TINYRUST, "--min-sqnr=20.7"]);
    assert_eq!(report["against"], TINYRUST);
    let count = report["tensors"].as_array().expect("a list").len();
    assert_eq!(count, 38, "plain tensors too");
}

/// Weights of no particular model, in one file.
#[test]
fn a_file_of_tensors_is_verified_alone() {
    let model = Copied::golden("mistral_bf16").without("config.json");
    let file = model.file("model.safetensors");
    let file = file.to_str().expect("UTF-8");
    let report = json(&["verify", file, "--quant=nf4", "--include=*.mlp.*"]);
    assert_eq!(report["tensors"].as_array().expect("a list").len(), 6);
}

#[test]
fn verify_refuses_what_cannot_be_compared() {
    let other = Golden("mistral_bf16").path("");
    let other = other.to_str().expect("UTF-8");
    refuse(1, &["verify", TINYRUST], &["no weight", "quantized"]);
    refuse(
        1,
        &["verify", TINYRUST, "--against", other],
        &["model.", "different models"],
    );
    for (extra, parts) in [
        (&["--fallback=none"][..], &["--fallback", "--min-sqnr"][..]),
        (&["--min-sqnr=NaN"], &["finite", "dB"]),
        (&["--max-relative=-1"], &["0 or more"]),
        (&["--min-cosine=2"], &["-1 to 1"]),
        (&["--max-saturated=2"], &["0 to 1"]),
        (&["--against", other, "--quant=nf4"], &["--against"]),
        (
            &["--against", other, "--min-sqnr=1", "--fallback=none"],
            &["--against"],
        ),
    ] {
        refuse(2, &[&["verify", TINYRUST], extra].concat(), parts);
    }
}
