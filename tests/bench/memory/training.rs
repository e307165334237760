//! Training runs: what is foretold of their memory, and the most that the process takes.

use std::{env, fs, path::Path, process::Command};

use firebox::{
    Cpu, LoadConfig,
    config::Bytes,
    observe::Flow,
    train::{FinetuneConfig, Run},
};
use serde_json::{Value, json};

use super::{Failure, Watch, models, off};

/// Off by at most, in percent.
const OFF_MAX: f64 = 5.0;

/// A model, and settings as in the file of a run.
const RUNS: [(&str, &str); 16] = [
    ("llama", r#"{"quant": "nf4", "batch": 2, "length": 128}"#),
    (
        "llama",
        r#"{"quant": "nf4", "batch": 1, "length": 512, "recompute": true}"#,
    ),
    ("llama", r#"{"batch": 2, "length": 128}"#),
    (
        "llama",
        r#"{"quant": "nf4", "batch": 2, "length": 256, "adapter": "lora:rank=64", "accumulation": 2}"#,
    ),
    (
        "llama",
        r#"{"quant": "nf4", "batch": 2, "length": 128, "expand": "blocks=1"}"#,
    ),
    (
        "experts",
        r#"{"quant": "nf4", "batch": 2, "length": 128, "adapter": "lora:rank=16"}"#,
    ),
    (
        "experts",
        r#"{"quant": "nf4", "batch": 2, "length": 256, "adapter": "lora:rank=16", "recompute": true}"#,
    ),
    (
        "llama",
        r#"{"quant": "nf4", "batch": 2, "length": 128, "adapter": "lora:rank=16,dora"}"#,
    ),
    (
        "llama",
        r#"{"quant": "nf4", "batch": 2, "length": 256, "adapter": "lora:rank=16,dora,dropout=0.1"}"#,
    ),
    (
        "llama",
        r#"{"batch": 2, "length": 128, "expand": "blocks=1"}"#,
    ),
    (
        "small",
        r#"{"batch": 2, "length": 128, "expand": "blocks=2"}"#,
    ),
    (
        "small",
        r#"{"quant": "nf4", "batch": 2, "length": 512, "expand": "blocks=2", "recompute": true}"#,
    ),
    (
        "small",
        r#"{"train-type": "full", "batch": 2, "length": 128}"#,
    ),
    (
        "small",
        r#"{"train-type": "full", "batch": 4, "length": 256, "recompute": true}"#,
    ),
    (
        "small",
        r#"{"train-type": "full", "batch": 2, "length": 128, "optimizer": "adamw8bit"}"#,
    ),
    (
        "small",
        r#"{"train-type": "full", "batch": 2, "length": 128, "accumulation": 2}"#,
    ),
];

/// Runs all of them, each in a process of its own.
pub(crate) fn parent(folder: &Path, only: Option<&str>) -> Result<(), Failure> {
    println!("\n| model | settings | planned | measured | off |");
    println!("|---|---|---:|---:|---:|");
    let (mut wrong, mut done) = (Vec::new(), 0);
    for (nth, (model, settings)) in RUNS.iter().enumerate() {
        if only.is_some_and(|only| !format!("{model} {settings}").contains(only)) {
            continue;
        }
        let path = models::written(folder, model)?;
        let path = path.to_str().ok_or("a path in UTF-8")?;
        let mut command = Command::new(env::current_exe()?);
        let output = command
            .args(["--trained", &nth.to_string(), path])
            .output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(format!("{model} {settings}: {said}").into());
        }
        let found: Value = serde_json::from_slice(&output.stdout)?;
        let [planned, measured] =
            ["planned", "measured"].map(|field| found[field].as_u64().unwrap_or(0));
        let off = off([planned, measured]);
        println!(
            "| {model} | `{settings}` | {} | {} | {off:+.1} % |",
            Bytes(planned),
            Bytes(measured)
        );
        if off.abs() > OFF_MAX {
            wrong.push(format!("{model} {settings}: off by {off:+.1} %"));
        }
        done += 1;
    }
    println!("\n{done} runs, {} beyond {OFF_MAX} %", wrong.len());
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(wrong.join("\n").into()),
    }
}

/// One run of two steps.
pub(crate) fn child(args: &[String]) -> Result<(), Failure> {
    let [nth, model] = args else {
        return Err("a child is told what to do".into());
    };
    let (_, settings) = RUNS[nth.parse::<usize>()?];
    let mut settings: serde_json::Map<String, Value> = serde_json::from_str(settings)?;
    let out = Path::new(model).join("run");
    if out.exists() {
        fs::remove_dir_all(&out)?;
    }
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/tinyrust-sample.txt");
    let beside = [
        ("data", json!(text)),
        ("out", json!(out)),
        ("steps", json!(2)),
    ];
    settings.extend(beside.map(|(key, value)| (key.to_owned(), value)));
    let is_full = settings.get("train-type") == Some(&json!("full"));
    let config = FinetuneConfig::from_map(settings)?;
    let mut load = LoadConfig::new(model);
    if is_full {
        load = load.dtype(firebox::DType::F32);
    }
    let watch = Watch::start();
    let run = Run::<Cpu>::open(load, config, false)?;
    let planned = run.facts().memory.peak();
    run.load()?.train(&mut |_| Flow::Continue)?;
    let measured = watch.stop();
    println!("{}", json!({ "planned": planned, "measured": measured }));
    Ok(())
}
