//! An index that says something else than the shards.

use firebox::source::{CatalogError, Checkpoint, CheckpointError, Index, IndexError, Memory};

use super::{open, refused, shard, two_shards};

/// Opened, with one note that mentions each of `mentions`.
fn noted(source: Memory, mentions: &[&str]) -> Checkpoint {
    let checkpoint = open(source).expect("a difference does no harm by itself");
    let notes = checkpoint.notes();
    let [note] = &notes[..] else {
        panic!("{notes:?}");
    };
    for mention in mentions {
        assert!(note.contains(mention), "{mention:?} is not in: {note}");
    }
    checkpoint
}

/// As for a single file: only a plan knows what a model needs.
#[test]
fn a_tensor_that_its_shard_lacks_is_noted_with_the_shard() {
    let source = two_shards().with("s1.safetensors", shard(&["a.one"]));
    let checkpoint = noted(source, &["lists 1 tensors", "a.two", "s1.safetensors"]);
    assert!(checkpoint.catalog().get("a.two").is_none());
    assert!(checkpoint.catalog().get("a.one").is_some());
}

#[test]
fn a_tensor_that_the_index_does_not_list_is_noted_and_there() {
    let source = two_shards().with("s2.safetensors", shard(&["b.one", "b.stray"]));
    let checkpoint = noted(source, &["have 1 tensors", "b.stray", "s2.safetensors"]);
    assert_eq!(
        &*checkpoint.catalog().get("b.stray").unwrap().file,
        "s2.safetensors"
    );
}

#[test]
fn a_missing_shard_is_noted_with_its_number_of_tensors() {
    let source = two_shards().without("s1.safetensors");
    let checkpoint = noted(source, &["s1.safetensors is missing", "2 tensors"]);
    assert_eq!(checkpoint.catalog().len(), 1);
    assert_eq!(checkpoint.files().len(), 1);
}

/// Would catch a file that is opened twice under two names, which has every tensor twice.
#[test]
fn a_dot_and_a_slash_before_a_file_mean_the_same_file() {
    let index = r#"{"weight_map":{"a.one":"./s1.safetensors","a.two":"s1.safetensors","b.one":"././s2.safetensors"}}"#;
    let checkpoint = open(two_shards().with("model.safetensors.index.json", index)).unwrap();
    assert!(checkpoint.notes().is_empty());
    let files: Vec<&str> = checkpoint.files().iter().map(|file| &*file.name).collect();
    assert_eq!(files, ["s1.safetensors", "s2.safetensors"]);
    for outside in ["./../s1.safetensors", "a/./s1.safetensors", "./", "."] {
        let index = format!(r#"{{"weight_map":{{"a.one":"{outside}"}}}}"#);
        let error = Index::parse("index", index.as_bytes()).unwrap_err();
        assert!(matches!(error, IndexError::Escapes { .. }), "{error:?}");
    }
}

#[test]
fn a_tensor_in_another_shard_than_the_index_says_is_named_with_both() {
    let error = refused(
        two_shards()
            .with("s1.safetensors", shard(&["a.one"]))
            .with("s2.safetensors", shard(&["a.two", "b.one"])),
        &[
            "a.two",
            "is in s2.safetensors",
            "places it in s1.safetensors",
        ],
    );
    assert!(
        matches!(
            error,
            CheckpointError::Catalog {
                source: CatalogError::PlacedElsewhere { .. },
                ..
            }
        ),
        "{error:?}"
    );
}

#[test]
fn a_tensor_in_two_shards_is_named_with_both() {
    let error = refused(
        two_shards().with("s2.safetensors", shard(&["a.one", "b.one"])),
        &["a.one", "s1.safetensors", "s2.safetensors"],
    );
    assert!(
        matches!(
            error,
            CheckpointError::Catalog {
                source: CatalogError::InTwoFiles { .. },
                ..
            }
        ),
        "{error:?}"
    );
}

#[test]
fn an_index_that_lies_is_refused_by_name() {
    // The index, what is wrong with it, what the message mentions.
    type Lie = (
        &'static str,
        fn(&IndexError) -> bool,
        &'static [&'static str],
    );
    let lies: [Lie; 8] = [
        ("", |error| matches!(error, IndexError::Json { .. }), &[]),
        ("[]", |error| matches!(error, IndexError::Json { .. }), &[]),
        (
            r#"{"weight_map":{"w":3}}"#,
            |error| matches!(error, IndexError::Json { .. }),
            &["w: "],
        ),
        (
            r#"{"metadata":{}}"#,
            |error| matches!(error, IndexError::NoWeightMap { .. }),
            &["weight_map"],
        ),
        (
            r#"{"weight_map":{}}"#,
            |error| matches!(error, IndexError::NoWeightMap { .. }),
            &["weight_map"],
        ),
        (
            r#"{"weight_map":{"w":"../../secret"}}"#,
            |error| matches!(error, IndexError::Escapes { .. }),
            &["tensor w", "../../secret"],
        ),
        (
            r#"{"weight_map":{"w":"/etc/passwd"}}"#,
            |error| matches!(error, IndexError::Escapes { .. }),
            &["tensor w", "/etc/passwd"],
        ),
        (
            r#"{"weight_map":{"w":"a.safetensors","w":"b.safetensors"}}"#,
            |error| matches!(error, IndexError::DuplicateTensor { .. }),
            &["tensor w", "a.safetensors", "b.safetensors"],
        ),
    ];
    for (text, expected, mentions) in lies {
        let error = Index::parse("the.index.json", text.as_bytes()).unwrap_err();
        assert!(expected(&error), "{text}: {error:?}");
        let message = error.to_string();
        for mention in mentions.iter().chain([&"the.index.json"]) {
            assert!(
                message.contains(mention),
                "{mention:?} is not in: {message}"
            );
        }
    }
    let error = refused(
        two_shards().with("model.safetensors.index.json", "{}"),
        &["memory/model.safetensors.index.json"],
    );
    assert!(matches!(error, CheckpointError::Index(_)), "{error:?}");
}
