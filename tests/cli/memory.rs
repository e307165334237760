//! The memory that `finetune` says it will take, beside what the system says it took.

use std::{fs, path::Path, process::Stdio, thread, time::Duration};

use serde_json::Value;
use tempfile::tempdir;

use crate::{
    common::repository,
    run::{program, succeed},
};

/// `name: 123 kB` of `/proc/PID/status`, in bytes.
fn of_status(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let number = line.trim_start_matches(':').trim().strip_suffix("kB")?;
    Some(number.trim().parse::<u64>().ok()? << 10)
}

/// `303.54 MiB`, in bytes.
fn of_words(words: &str) -> f64 {
    let (number, unit) = words.split_once(' ').expect("a number and a unit");
    let unit = ["B", "KiB", "MiB", "GiB"]
        .iter()
        .position(|known| *known == unit);
    let number: f64 = number.parse().expect("a number");
    number * 1024_f64.powi(unit.expect("a known unit") as i32)
}

/// What the program estimates, and the most anonymous memory that it has: `VmHWM` without the pages of files.
fn estimated_and_taken(model: &Path, out: &Path, more: &[&str]) -> [f64; 2] {
    let text = repository().join("assets/tinyrust-sample.txt");
    let mut command = program(&["finetune"]);
    command
        .arg(model)
        .arg("--data")
        .arg(text)
        .arg("--out")
        .arg(out);
    command.args(["--steps", "2", "--json"]).args(more);
    let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().expect("the program was built for the tests");
    let status = format!("/proc/{}/status", child.id());
    let mut taken = 0;
    while child.try_wait().expect("a child of ours").is_none() {
        let status = fs::read_to_string(&status).unwrap_or_default();
        let most = of_status(&status, "VmHWM");
        if let Some((most, files)) = most.zip(of_status(&status, "RssFile")) {
            taken = most - files;
        }
        thread::sleep(Duration::from_millis(5));
    }
    let ended = child.wait_with_output().expect("a child of ours");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{more:?}: {said}");
    let about = said
        .lines()
        .find_map(|line| line.strip_prefix("memory: about "));
    let about = about
        .and_then(|line| line.split_once(':'))
        .expect("an estimate");
    // The program watches itself too.
    let answer: Value = serde_json::from_slice(&ended.stdout).expect("JSON");
    let own = answer["peak_host_bytes"].as_f64().expect("bytes");
    let taken = taken as f64;
    assert!(
        (own - taken).abs() < 0.05 * taken,
        "{more:?}: {own} {taken}"
    );
    [of_words(about.0), taken]
}

/// Dense and packed, computed once and twice, short rows and long ones. Catches a form of activations that is forgotten, scores that
/// grow with the square of the length, and gradients or moments that are counted twice.
#[test]
fn estimates_are_what_training_takes() {
    let scratch = tempdir().expect("a folder");
    let model = scratch.path().join("model");
    let out = model.display().to_string();
    succeed(&[
        "synth",
        "--like",
        "llama-3.2-1b",
        "--size",
        "420MB",
        "--out",
        &out,
    ]);
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        let from = repository().join("assets/tinyrust").join(file);
        fs::copy(from, model.join(file)).expect("copied");
    }
    for (nth, more) in [
        &["--quant", "nf4", "--batch", "2", "--length", "128"][..],
        &[
            "--quant",
            "nf4",
            "--batch",
            "1",
            "--length",
            "512",
            "--recompute",
        ],
        &["--batch", "2", "--length", "128", "--recompute"],
        &["--batch", "1", "--length", "512"],
    ]
    .into_iter()
    .enumerate()
    {
        let out = scratch.path().join(nth.to_string());
        let [estimated, taken] = estimated_and_taken(&model, &out, more);
        let error = estimated / taken - 1.0;
        assert!(
            error.abs() < 0.05,
            "{more:?}: {estimated} of {taken}, {error:+.3}"
        );
    }
}
