//! `firebox synth`.

use std::{fs, path::Path};

use tempfile::TempDir;

use crate::run::{json, refuse, succeed};

/// Would catch a checkpoint that its own program cannot read, and one that differs from run to run.
#[test]
fn a_synthetic_checkpoint_loads() {
    let folder = TempDir::new().expect("a temporary folder");
    let made = |name: &str| {
        let out = folder.path().join(name);
        let out = out.to_str().expect("UTF-8").to_owned();
        let said = succeed(&[
            "synth", "--like", "tinyrust", "--size", "4MiB", "--out", &out,
        ]);
        (out, said.stdout)
    };
    let (first, said) = made("first");
    assert!(said.contains("2 layers"), "{said}");
    let (second, _) = made("second");

    let report = json(&["load", &first, "--quant", "nf4"]);
    // Embedding, last norm, and nine tensors in each of the two layers.
    assert_eq!(report["tensors"], 2 + 2 * 9);
    let read = report["bytes_read"].as_u64().expect("a number");
    assert!(read > 3 << 20 && read <= 4 << 20, "{read}");

    for file in fs::read_dir(&first).expect("a folder") {
        let name = file.expect("a file").file_name();
        let bytes = |folder: &str| fs::read(Path::new(folder).join(&name)).expect("a file");
        assert!(bytes(&first) == bytes(&second), "{name:?} differs");
    }
    refuse(
        1,
        &[
            "synth", "--like", "tinyrust", "--size", "4MiB", "--out", &first,
        ],
        &[&first, "not empty"],
    );
}
