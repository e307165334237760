//! Folders and files that are no model: what is there is said, and the way out.

use std::{fs, path::Path};

use firebox::{
    Error,
    source::{CheckpointError, Local, SourceError},
};
use tempfile::TempDir;

use crate::{
    common::Golden,
    draft::{Draft, load, says},
};

const GOLDEN: Golden = Golden("llama_f32_tied");

/// The error of a load from a folder with these files.
fn refused(files: &[(&str, &str)]) -> Error {
    let folder = with(files);
    load(folder.path(), "none").expect_err("is no model")
}

fn with(files: &[(&str, &str)]) -> TempDir {
    let folder = TempDir::new().expect("a folder");
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    }
    folder
}

/// Names of files, what is in them, and what an error has to say.
type Case<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str]);

/// Catches "not a model" alone.
#[test]
fn a_folder_without_a_model_says_what_it_has_and_what_to_do() {
    const ADAPTER: &str = r#"{"peft_type": "LORA", "base_model_name_or_path": "org/base"}"#;
    let cases: &[Case<'_>] = &[
        (&[], &["it is empty"]),
        (
            &[
                ("adapter_config.json", ADAPTER),
                ("adapter_model.safetensors", ""),
            ],
            &[
                "adapter of peft (LORA)",
                "load org/base",
                "merge_and_unload",
            ],
        ),
        (
            &[("adapter_config.json", ADAPTER), ("adapter_model.bin", "")],
            &["load org/base"],
        ),
        (
            &[("adapter_config.json", "{}")],
            &["adapter of peft", "its base"],
        ),
        (
            &[("adapter_config.json", "no JSON")],
            &["adapter of peft", "its base"],
        ),
        (
            &[
                ("pytorch_model-00001-of-00002.bin", ""),
                ("pytorch_model-00002-of-00002.bin", ""),
            ],
            &["pytorch_model-00001-of-00002.bin, pytorch_model-00002"],
        ),
        (
            &[("model.pt", ""), ("last.ckpt", "")],
            &["last.ckpt, model.pt", "PyTorch"],
        ),
        (
            &[
                ("consolidated.00.pth", ""),
                ("params.json", "{}"),
                ("tokenizer.model", ""),
            ],
            &[
                "consolidated.00.pth, params.json",
                "version for transformers",
            ],
        ),
        (
            &[
                ("consolidated.safetensors", ""),
                ("params.json", "{}"),
                ("tekken.json", ""),
            ],
            &["consolidated.safetensors", "version for transformers"],
        ),
        (
            &[("model.onnx", ""), ("model.onnx_data", "")],
            &["model.onnx, model.onnx_data", "ONNX"],
        ),
        (&[("tf_model.h5", "")], &["tf_model.h5", "TensorFlow"]),
        (
            &[("flax_model.msgpack", "")],
            &["flax_model.msgpack", "Flax"],
        ),
        (&[("weights.npz", "")], &["weights.npz", "MLX"]),
        (
            &[
                ("model_index.json", r#"{"_class_name": "FluxPipeline"}"#),
                ("unet/config.json", "{}"),
            ],
            &["diffusers (FluxPipeline)", "language models"],
        ),
        (
            &[("tokenizer.model", ""), ("README.md", "")],
            &[
                "a tokenizer (tokenizer.model) and no weights",
                "git lfs pull",
            ],
        ),
        (
            &[("README.md", ""), ("notes.txt", "")],
            &["it has README.md, notes.txt"],
        ),
        (&[("other.safetensors", "")], &["other.safetensors", "name"]),
        // Two things at once.
        (
            &[("adapter_config.json", ADAPTER), ("model.gguf", "")],
            &["org/base", "llama.cpp"],
        ),
    ];
    for (files, words) in cases {
        let error = refused(files);
        assert!(
            matches!(error, Error::Checkpoint(CheckpointError::NotAModel { .. })),
            "{files:?}: {error:?}"
        );
        says(&error, words);
    }
}

/// The same beside a configuration.
#[test]
fn a_configuration_without_weights_says_what_there_is() {
    let cases: &[Case<'_>] = &[
        (&[("model.gguf", "")], &["model.gguf", "llama.cpp"]),
        (
            &[("tf_model.h5", ""), ("flax_model.msgpack", "")],
            &["TensorFlow", "Flax"],
        ),
        (&[("tokenizer.json", "")], &["no weights", "git lfs pull"]),
        (
            &[("sub/config.json", "{}"), ("sub/model.safetensors", "")],
            &["in the folder sub", "/sub"],
        ),
    ];
    for (files, words) in cases {
        let config = [("config.json", "{}")];
        let error = refused(&[&config[..], files].concat());
        assert!(
            matches!(error, Error::Checkpoint(CheckpointError::NoWeights { .. })),
            "{error:?}"
        );
        says(&error, words);
    }
}

/// A run of training has a folder for each checkpoint, and a hub's cache one for each commit. The advice is followed. Catches
/// a folder that is named and is not the model's.
#[test]
fn a_model_in_a_folder_inside_is_named() {
    let outer = with(&[("README.md", "")]);
    let inner = outer.path().join("checkpoint-500");
    fs::create_dir(&inner).expect("a folder");
    Draft::of(GOLDEN).write(&inner);
    is_answered(outer.path(), &inner);

    let commit = "0123456789012345678901234567890123456789";
    let outer = with(&[("refs/main", commit)]);
    let inner = outer.path().join("snapshots").join(commit);
    fs::create_dir_all(&inner).expect("a folder");
    Draft::of(GOLDEN).write(&inner);
    is_answered(outer.path(), &inner);
}

#[track_caller]
fn is_answered(outer: &Path, inner: &Path) {
    let error = load(outer, "none").expect_err("is no model");
    says(&error, &[&format!("name {}", inner.display())]);
    load(inner, "none").expect("a model");
}

/// Catches a file of the wrong kind that is told its ending alone.
#[test]
fn a_file_in_place_of_a_model_says_what_it_is() {
    for (file, words) in [
        ("model.ggml", ["llama.cpp", "read one file"]),
        ("model.pkl", ["pickled", "save_pretrained"]),
        ("config.json", ["part of a model", "name its folder"]),
        (
            "model.safetensors.index.json",
            ["part of a model", "name its folder"],
        ),
        ("tokenizer.model", ["part of a model", "name its folder"]),
        ("notes.txt", ["none of weights", "folder"]),
    ] {
        let folder = with(&[(file, "")]);
        let error = Local::open(folder.path().join(file)).expect_err("is no model");
        assert!(
            matches!(error, SourceError::NotAModelPath { .. }),
            "{error:?}"
        );
        says(&error, &words);
        says(&error, &[file]);
    }
    let folder = with(&[
        ("adapter_model.safetensors", ""),
        (
            "adapter_config.json",
            r#"{"base_model_name_or_path": "org/base"}"#,
        ),
    ]);
    let error =
        load(&folder.path().join("adapter_model.safetensors"), "none").expect_err("is an adapter");
    says(&error, &["adapter", "org/base"]);
}
