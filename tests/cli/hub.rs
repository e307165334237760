//! The program with models of a hub.

use std::{fs, process::Command};

use tempfile::TempDir;

use crate::{
    common::repository,
    loopback::{Files, ID, Loopback},
    run::TINYRUST,
};

/// The whole road of a stranger: a model id, a mirror and an empty cache; then the same without a
/// network. Would catch a program that does not find what its library downloads.
#[test]
fn the_program_speaks_from_a_model_id_and_then_offline() {
    let files = fs::read_dir(repository().join(TINYRUST)).unwrap();
    let files: Files = files
        .map(|file| {
            let file = file.unwrap();
            let name = file.file_name().into_string().unwrap();
            (name, fs::read(file.path()).unwrap())
        })
        .collect();
    let (hub, cache) = (Loopback::serve(files), TempDir::new().unwrap());
    let text = |offline: &str| {
        let ran = Command::new(env!("CARGO_BIN_EXE_firebox"))
            .args(["generate", ID, "--prompt", "To create a new package, run"])
            .args(["--max-new-tokens", "5", "--json"])
            .env("HF_ENDPOINT", &hub.url)
            .env("HF_HOME", cache.path())
            .env("HF_HUB_OFFLINE", offline)
            .env_remove("HF_HUB_CACHE")
            .env_remove("HUGGINGFACE_HUB_CACHE")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "offline {offline}: {said}");
        let answer: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
        answer["text"].as_str().unwrap().to_owned()
    };

    let online = text("0");
    assert!(online.starts_with(" the crate"), "{online}");
    assert_eq!(hub.downloads("model-00001-of-00003.safetensors"), 1);

    let requests = hub.log().len();
    assert_eq!(text("1"), online);
    assert_eq!(
        hub.log().len(),
        requests,
        "offline, and still asked the hub"
    );
}
