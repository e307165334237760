//! Files that are missing, cut, unreadable or no text.

use firebox::source::{CheckpointError, Fault, HeaderError, Memory, SourceError};

use super::{open, refused, shard, two_shards};

#[test]
fn a_folder_without_a_model_says_what_was_looked_for() {
    let source = Memory::new().with("README.md", "hello");
    let error = refused(
        source,
        &[
            "memory",
            "config.json",
            "model.safetensors.index.json",
            "model.safetensors and",
        ],
    );
    assert!(
        matches!(error, CheckpointError::NotAModel { .. }),
        "{error:?}"
    );
}

#[test]
fn weights_without_a_configuration_are_told_from_no_model() {
    let error = refused(
        two_shards().without("config.json"),
        &["model.safetensors.index.json", "no config.json"],
    );
    assert!(
        matches!(error, CheckpointError::NoConfig { .. }),
        "{error:?}"
    );
}

#[test]
fn a_configuration_without_weights_says_what_was_looked_for() {
    let source = Memory::new().with("config.json", "{}");
    let error = refused(
        source,
        &[
            "model.safetensors.index.json and model.safetensors",
            ".gguf",
        ],
    );
    assert!(
        matches!(error, CheckpointError::NoWeights { .. }),
        "{error:?}"
    );
}

#[test]
fn a_model_of_which_every_shard_is_missing_names_one_with_its_index() {
    let source = two_shards().without("s1.safetensors");
    let error = refused(
        source.without("s2.safetensors"),
        &[
            "s1.safetensors",
            "model.safetensors.index.json",
            "2 tensors",
        ],
    );
    assert!(
        matches!(error, CheckpointError::MissingShard { tensors: 2, .. }),
        "{error:?}"
    );
}

#[test]
fn a_truncated_shard_is_named_with_both_lengths() {
    let whole = shard(&["b.one"]);
    let cut = &whole[..whole.len() - 3];
    let error = refused(
        two_shards().with("s2.safetensors", cut),
        &[
            "memory/s2.safetensors",
            "tensor b.one",
            &whole.len().to_string(),
            &cut.len().to_string(),
        ],
    );
    assert!(
        matches!(
            error,
            CheckpointError::Header(HeaderError::OutOfRange { .. })
        ),
        "{error:?}"
    );
}

/// A shard that fails, or ends, while its header is read: after its length was told.
#[test]
fn a_shard_that_cannot_be_read_is_not_a_missing_one() {
    let source = two_shards();
    source.fault("s2.safetensors", Fault::FailFrom(20));
    let error = refused(source, &["s2.safetensors", "told to fail"]);
    assert!(
        matches!(error, CheckpointError::Source(SourceError::Io { .. })),
        "{error:?}"
    );

    let source = two_shards();
    source.fault("s2.safetensors", Fault::CutAt(20));
    let error = refused(source, &["s2.safetensors", "has 20"]);
    assert!(
        matches!(
            error,
            CheckpointError::Source(SourceError::Truncated { len: 20, .. })
        ),
        "{error:?}"
    );
}

#[test]
fn a_configuration_that_is_not_an_object_is_refused() {
    for file in ["config.json", "generation_config.json"] {
        let error = refused(two_shards().with(file, "[1]"), &[file]);
        assert!(
            matches!(error, CheckpointError::NotAnObject { .. }),
            "{error:?}"
        );
        let error = refused(two_shards().with(file, "{\"a\": nan}"), &[file, "line 1"]);
        assert!(matches!(error, CheckpointError::Json { .. }), "{error:?}");
    }
}

#[test]
fn a_text_that_is_not_utf_8_says_where() {
    let checkpoint = open(two_shards().with("tokenizer.json", b"ab\xffcd")).unwrap();
    let error = checkpoint.read_text("tokenizer.json").unwrap_err();
    assert!(
        matches!(
            error,
            CheckpointError::NotText {
                at_byte: 2,
                len: 5,
                ..
            }
        ),
        "{error:?}"
    );
    let text = error.to_string();
    assert!(
        text.contains("tokenizer.json") && text.contains("byte 2 of 5"),
        "{text}"
    );
    assert!(checkpoint.read_text("merges.txt").is_err());
}
