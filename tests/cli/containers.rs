//! Files of other projects, and files of Burn.

use std::fs;

use super::{
    common::repository,
    run::{Copied, TINYRUST, json, refuse, succeed},
};

/// A folder with a file of PyTorch in place of safetensors.
fn pytorch() -> Copied {
    let copied = Copied::golden("llama_rope_linear");
    // Any safetensors would be taken for the weights.
    for file in ["model.safetensors", "logits.safetensors"] {
        fs::remove_file(copied.file(file)).expect("was there");
    }
    let file = repository().join("tests/golden/torch/llama_rope_linear.bin");
    fs::copy(file, copied.file("pytorch_model.bin")).expect("copied");
    copied
}

#[test]
fn a_folder_of_pytorch_is_a_model() {
    let folder = pytorch();
    let model = folder.file("").display().to_string();
    let inspected = json(&["inspect", &model]);
    assert!(
        inspected.to_string().contains("pytorch_model.bin"),
        "{inspected}"
    );
    let out = folder.file("quantized").display().to_string();
    succeed(&["quantize", &model, "--quant", "nf4", "--out", &out]);
    let verified = succeed(&["verify", &out, "--against", &model]);
    assert!(!verified.stdout.is_empty());
    // A file alone is one of tensors.
    let file = folder.file("pytorch_model.bin");
    let alone = folder.file("alone.pt");
    fs::rename(&file, &alone).expect("renamed");
    fs::remove_file(folder.file("config.json")).expect("was there");
    let inspected = json(&["inspect", &alone.display().to_string()]);
    assert!(
        inspected.to_string().contains("model.norm.weight"),
        "{inspected}"
    );
}

/// `os.system("id")`, called.
#[test]
fn a_pickle_that_would_run_something_is_refused_by_name() {
    let folder = pytorch();
    fs::write(
        folder.file("pytorch_model.bin"),
        b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00id\x85R.",
    )
    .expect("written");
    let model = folder.file("").display().to_string();
    for command in ["inspect", "plan"] {
        refuse(
            1,
            &[command, &model],
            &["os.system", "was not run", "pytorch_model.bin"],
        );
    }
}

#[test]
fn files_of_burn_are_written_and_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let folders = ["burn", "found", "known"];
    let [burn, found, known] = folders.map(|name| folder.path().join(name).display().to_string());
    let saved = json(&["convert", TINYRUST, "--to", "burnpack", "--out", &burn]);
    assert_eq!(
        (&saved["dialect"], &saved["files"][0]),
        (&"burnpack".into(), &"model.bpk".into())
    );
    succeed(&["convert", &burn, "--out", &found]);
    succeed(&["convert", TINYRUST, "--out", &known]);
    let [found, known] = [found, known].map(|folder| {
        let bytes = fs::read(format!("{folder}/model.safetensors")).expect("one file");
        let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
        let tensors = tensors.tensors().into_iter();
        let mut tensors: Vec<_> = tensors
            .map(|(name, view)| (name, view.data().to_vec()))
            .collect();
        tensors.sort();
        tensors
    });
    assert!(found == known);
    refuse(
        1,
        &["convert", TINYRUST, "--to", "burnpack", "--out", &burn],
        &["not empty"],
    );
    refuse(
        2,
        &[
            "quantize", TINYRUST, "--quant", "nf4", "--to", "burnpack", "--out", &burn,
        ],
        &["dense", "convert"],
    );
    refuse(
        2,
        &[
            "convert", TINYRUST, "--to", "burnpack", "--resume", "--out", &burn,
        ],
        &["--resume"],
    );
    refuse(
        2,
        &["convert", TINYRUST, "--to", "onnx", "--out", &burn],
        &["onnx", "burnpack"],
    );
}
