//! An index that says something else than the shards.

use firebox::source::{CatalogError, CheckpointError, Index, IndexError};

use super::{refused, shard, two_shards};

#[test]
fn a_tensor_that_its_shard_lacks_is_named_with_the_shard() {
    let error = refused(
        two_shards().with("s1.safetensors", shard(&["a.one"])),
        &["a.two", "s1.safetensors"],
    );
    assert!(
        matches!(
            error,
            CheckpointError::Catalog {
                source: CatalogError::NotInShard { .. },
                ..
            }
        ),
        "{error:?}"
    );
}

#[test]
fn a_tensor_that_the_index_does_not_list_is_named() {
    let error = refused(
        two_shards().with("s2.safetensors", shard(&["b.one", "b.stray"])),
        &["b.stray", "s2.safetensors"],
    );
    assert!(
        matches!(
            error,
            CheckpointError::Catalog {
                source: CatalogError::NotInIndex { .. },
                ..
            }
        ),
        "{error:?}"
    );
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
