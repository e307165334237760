//! Weights without an index: read where the names of the files say which ones are meant.

use std::{fs, sync::Arc};

use firebox::source::{CatalogError, Checkpoint, CheckpointError, Local};

use super::shard;

/// A folder with a configuration and files with one tensor each.
fn open(files: &[(&str, &str)]) -> Result<Checkpoint, CheckpointError> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), "{}").unwrap();
    for (file, tensor) in files {
        fs::write(folder.path().join(file), shard(&[tensor])).unwrap();
    }
    Checkpoint::open(Arc::new(Local::open(folder.path()).unwrap()))
}

/// The files that are read, in order.
fn read(files: &[(&str, &str)]) -> Vec<String> {
    let checkpoint = open(files).expect("files of one saving");
    let files = checkpoint.files().iter();
    files.map(|file| file.name.to_string()).collect()
}

fn refused(files: &[(&str, &str)], mentions: &[&str]) -> CheckpointError {
    let error = open(files).expect_err("was opened");
    let text = error.to_string();
    for mention in mentions {
        assert!(text.contains(mention), "{mention:?} is not in: {text}");
    }
    error
}

#[test]
fn shards_are_found_by_their_names() {
    let (first, second) = (
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    );
    assert_eq!(
        read(&[(first, "a.one"), (second, "b.one")]),
        [first, second]
    );
    let one = "model-00001-of-00001.safetensors";
    assert_eq!(read(&[(one, "a.one")]), [one]);
    // As DeepSeek counts, as transformers 5 names, from zero, and another name.
    for names in [
        [
            "model-00001-of-000002.safetensors",
            "model-00002-of-000002.safetensors",
        ],
        [
            "model.safetensors-00001-of-00002.safetensors",
            "model.safetensors-00002-of-00002.safetensors",
        ],
        [
            "model-00000-of-00002.safetensors",
            "model-00001-of-00002.safetensors",
        ],
        ["weights-1-of-2.safetensors", "weights-2-of-2.safetensors"],
        ["model_1.safetensors", "model_2.safetensors"],
    ] {
        assert_eq!(read(&[(names[0], "a.one"), (names[1], "b.one")]), names);
    }
}

#[test]
fn a_single_file_may_have_any_name() {
    for name in ["weights.safetensors", "model.fp16.safetensors"] {
        assert_eq!(read(&[(name, "a.one")]), [name]);
    }
    // What lies beside it is not the model.
    let beside = [
        ("adapter_model.safetensors", "c.one"),
        ("optimizer.bin", "d.one"),
    ];
    let files = [&[("weights.safetensors", "a.one")], &beside[..]].concat();
    assert_eq!(read(&files), ["weights.safetensors"]);
    // Shards of the name that transformers writes win over others, and the single file over all.
    let model = ("model-00001-of-00001.safetensors", "a.one");
    let files = [
        model,
        ("consolidated.safetensors", "a.one"),
        ("x-00001-of-00001.safetensors", "a.one"),
    ];
    assert_eq!(read(&files), [model.0]);
    assert_eq!(
        read(&[("model.safetensors", "a.one"), model]),
        ["model.safetensors"]
    );
}

#[test]
fn a_set_with_a_gap_names_the_missing_shards() {
    let file = "model-00002-of-00004.safetensors";
    let error = refused(&[(file, "a.one")], &[file, "1, 3", "of 4", "missing"]);
    assert!(
        matches!(error, CheckpointError::MissingShards { count: 4, .. }),
        "{error:?}"
    );
    let huge = "model-00001-of-18446744073709551615.safetensors";
    refused(&[(huge, "a.one")], &[huge, "2, 3"]);
}

#[test]
fn files_of_two_savings_are_named_both() {
    let two = [
        "model-00001-of-00001.safetensors",
        "model-00001-of-00002.safetensors",
    ];
    let error = refused(&[(two[0], "a.one"), (two[1], "b.one")], &two);
    assert!(
        matches!(error, CheckpointError::Ambiguous { .. }),
        "{error:?}"
    );
    let other = ["first.safetensors", "second.safetensors"];
    let error = refused(&[(other[0], "a.one"), (other[1], "b.one")], &other);
    assert!(
        matches!(error, CheckpointError::Ambiguous { .. }),
        "{error:?}"
    );
}

#[test]
fn a_tensor_in_two_files_is_named_with_both() {
    let two = [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ];
    let error = refused(
        &[(two[0], "a.one"), (two[1], "a.one")],
        &[two[0], two[1], "a.one"],
    );
    let in_two = matches!(
        &error,
        CheckpointError::Catalog {
            source: CatalogError::InTwoFiles { .. },
            ..
        }
    );
    assert!(in_two, "{error:?}");
    // One model in two types.
    let two = ["model.fp16.safetensors", "model.fp32.safetensors"];
    refused(
        &[(two[0], "a.one"), (two[1], "a.one")],
        &[two[0], two[1], "a.one"],
    );
}

#[test]
fn without_any_file_of_weights_it_is_said_so() {
    let error = refused(
        &[("adapter_model.safetensors", "a.one")],
        &["model.safetensors"],
    );
    assert!(
        matches!(error, CheckpointError::NoWeights { .. }),
        "{error:?}"
    );
}
