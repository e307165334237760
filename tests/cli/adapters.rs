//! `--adapter` and `merge`.

use std::path::Path;

use safetensors::SafeTensors;
use tempfile::TempDir;

use crate::{
    common::{floats, repository},
    run::{Copied, refuse, succeed},
};

const MODEL: &str = "llama_bf16_untied";

fn adapter() -> String {
    let folder = repository().join("tests/golden/adapters/llama_rslora");
    folder.display().to_string()
}

/// The logits that the program writes for some tokens.
fn logits(arguments: &[&str], to: &Path) -> Vec<f32> {
    let out = to.join("logits.safetensors").display().to_string();
    let base = [
        "logits",
        "--tokens=1,5,9,2",
        "--dtype",
        "f32",
        "--out",
        &out,
    ];
    succeed(&[&base[..], arguments].concat());
    let bytes = std::fs::read(&out).expect("logits");
    let tensors = SafeTensors::deserialize(&bytes).expect("logits");
    floats(&tensors.tensor("logits").expect("logits"))
}

fn furthest(one: &[f32], other: &[f32]) -> f32 {
    assert_eq!(one.len(), other.len());
    let apart = one
        .iter()
        .zip(other)
        .map(|(one, other)| (one - other).abs());
    apart.fold(0.0, f32::max)
}

/// Beside the weights, merged into them, in two parts, and not at all. Catches an option that is read and not used.
#[test]
fn adapters_act_beside_weights_and_in_them() {
    let model = Copied::golden(MODEL);
    let folder = TempDir::new().expect("a folder");
    let adapter = adapter();
    let without = logits(&[model.path()], folder.path());
    let with = logits(&[model.path(), "--adapter", &adapter], folder.path());
    assert!(
        furthest(&without, &with) > 0.1,
        "the adapter changes nothing"
    );
    let half = format!("{adapter}=0.5");
    let halves = [model.path(), "--adapter", &half, "--adapter", &half];
    assert!(furthest(&logits(&halves, folder.path()), &with) < 1e-4);
    let off = format!("{adapter}=0");
    assert_eq!(
        logits(&[model.path(), "--adapter", &off], folder.path()),
        without
    );

    let merged = folder.path().join("merged").display().to_string();
    let arguments = [
        "merge",
        model.path(),
        "--adapter",
        &adapter,
        "--dtype",
        "f32",
        "--out",
        &merged,
    ];
    succeed(&arguments);
    assert!(furthest(&logits(&[&merged], folder.path()), &with) < 1e-4);
    let config = std::fs::read(Path::new(&merged).join("config.json")).expect("a configuration");
    let config: serde_json::Value = serde_json::from_slice(&config).expect("JSON");
    assert_eq!(
        config["dtype"].as_str().or(config["torch_dtype"].as_str()),
        Some("float32")
    );
}

/// Catches an adapter that is left out in silence.
#[test]
fn adapters_that_do_not_fit_are_refused() {
    let model = Copied::golden("qwen3_bf16");
    let folder = TempDir::new().expect("a folder");
    let out = folder.path().join("out").display().to_string();
    let adapter = adapter();
    refuse(
        1,
        &["load", model.path(), "--adapter", &adapter],
        &["model.layers", "another model"],
    );
    let merge = ["merge", model.path(), "--out", &out];
    refuse(
        1,
        &[&merge[..], &["--adapter", &adapter]].concat(),
        &["another model"],
    );
    refuse(2, &merge, &["--adapter DIR"]);
    refuse(
        1,
        &["load", model.path(), "--adapter", model.path()],
        &["adapter_config.json", "config.json"],
    );
    refuse(
        2,
        &["load", model.path(), "--adapter", "lora:rang=4"],
        &["rang=4", "rank="],
    );
    let new = [&merge[..], &["--adapter", "lora:rank=4"]].concat();
    refuse(1, &new, &["nothing to merge"]);
    assert!(!Path::new(&out).exists(), "nothing was written");
}

/// Files that are no adapter: without an end, a pipe, broken. Catches a file that is read until memory ends, and one that
/// is waited for.
#[test]
#[cfg(target_os = "linux")]
fn adapters_of_other_files_are_refused() {
    let model = Copied::golden(MODEL);
    let folder = TempDir::new().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let names = ["adapter_config.json", "adapter_model.safetensors"];
    let place = |name: &str| {
        for name in names {
            let _ = std::fs::remove_file(path(name));
            let from = Path::new(&adapter()).join(name);
            std::fs::copy(from, path(name)).expect("copied");
        }
        std::fs::remove_file(path(name)).expect("removed");
        path(name)
    };
    let refused = |part: &[&str]| {
        let adapter = folder.path().display().to_string();
        refuse(1, &["load", model.path(), "--adapter", &adapter], part);
    };
    for name in names {
        let place = || place(name);
        std::os::unix::fs::symlink("/dev/zero", place()).expect("linked");
        refused(&[name, "no regular file"]);
        let made = std::process::Command::new("mkfifo").arg(place()).status();
        assert!(made.is_ok_and(|code| code.success()), "a pipe");
        refused(&[name, "no regular file"]);
        std::fs::write(place(), b"\xff\xfe").expect("written");
        refused(&[name]);
        std::fs::write(place(), b"").expect("written");
        refused(&[name]);
    }
    let long = std::fs::File::create(place(names[0])).expect("made");
    long.set_len(64 << 20).expect("made longer");
    refused(&[names[0], "67108864 bytes"]);
}
