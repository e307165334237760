//! Opening a checkpoint: the real ones in this repository, and each way in which one can be broken.

use std::path::PathBuf;
use std::sync::Arc;

use firebox::source::{
    Catalog, CatalogError, Checkpoint, CheckpointError, Dtype, Fault, HeaderError, Index,
    IndexError, Local, Memory, SourceError, TensorInfo,
};

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn open(source: Memory) -> Result<Checkpoint, CheckpointError> {
    Checkpoint::open(Arc::new(source))
}

/// The error of a source, which must mention each of `mentions`.
fn refused(source: Memory, mentions: &[&str]) -> CheckpointError {
    let error = open(source).expect_err("was opened");
    let text = error.to_string();
    for mention in mentions {
        assert!(text.contains(mention), "{mention:?} is not in: {text}");
    }
    error
}

/// A shard with these tensors, four bytes each.
fn shard(tensors: &[&str]) -> Vec<u8> {
    let views = tensors.iter().map(|name| {
        let view = safetensors::tensor::TensorView::new(
            safetensors::Dtype::F32,
            vec![1],
            name.as_bytes().first_chunk::<4>().unwrap(),
        );
        (*name, view.unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

/// Two shards: `a.one` and `a.two` in the first, `b.one` in the second.
fn two_shards() -> Memory {
    Memory::new()
        .with("config.json", r#"{"model_type":"llama"}"#)
        .with(
            "model.safetensors.index.json",
            r#"{"metadata":{"total_size":12},"weight_map":{
                "a.one":"s1.safetensors","a.two":"s1.safetensors","b.one":"s2.safetensors"}}"#,
        )
        .with("s1.safetensors", shard(&["a.one", "a.two"]))
        .with("s2.safetensors", shard(&["b.one"]))
}

/// Counted by Python, from indexes, headers and file sizes.
#[test]
fn the_checkpoints_in_this_repository_open() {
    for (name, shards, tensors, tensor_bytes, file_bytes, dtype, model_type) in [
        (
            "assets/tinyrust",
            3,
            38,
            6_951_424,
            6_955_576,
            Dtype::BF16,
            "llama",
        ),
        (
            "llama_bf16_untied",
            6,
            39,
            4_461_056,
            4_465_328,
            Dtype::BF16,
            "llama",
        ),
        (
            "llama_f16_tied_bias",
            1,
            34,
            203_264,
            206_688,
            Dtype::F16,
            "llama",
        ),
        (
            "llama_f32_tied",
            4,
            38,
            2_232_832,
            2_236_888,
            Dtype::F32,
            "llama",
        ),
        (
            "mistral_bf16",
            1,
            21,
            266_880,
            269_048,
            Dtype::BF16,
            "mistral",
        ),
        (
            "qwen2_bf16_tied",
            1,
            26,
            201_856,
            204_536,
            Dtype::BF16,
            "qwen2",
        ),
        ("qwen3_bf16", 5, 25, 291_648, 294_328, Dtype::BF16, "qwen3"),
    ] {
        let path = match name.contains('/') {
            true => folder(name),
            false => folder("tests/golden/models").join(name),
        };
        let checkpoint = Checkpoint::open(Arc::new(Local::open(path).unwrap())).unwrap();
        assert_eq!(checkpoint.files().len(), shards, "{name}");
        assert_eq!(checkpoint.catalog().len(), tensors, "{name}");
        let bytes = checkpoint.catalog().iter().map(TensorInfo::bytes);
        assert_eq!(bytes.sum::<u64>(), tensor_bytes, "{name}");
        assert_eq!(checkpoint.total_bytes(), file_bytes, "{name}");
        assert!(
            checkpoint
                .catalog()
                .iter()
                .all(|tensor| tensor.dtype == dtype),
            "{name}"
        );
        assert_eq!(checkpoint.config()["model_type"], model_type, "{name}");
        assert!(checkpoint.generation_config().is_some(), "{name}");
        for file in checkpoint.files() {
            assert_eq!(file.metadata["format"], "pt", "{name}");
        }
        assert!(
            checkpoint
                .read_text("tokenizer.json")
                .unwrap()
                .contains("\"model\"")
        );
        assert_eq!(
            checkpoint.read_optional("chat_template.jinja").unwrap(),
            None
        );
    }
}

/// Catches a range that is off by the header: the bytes of one known tensor are read through it.
#[test]
fn a_tensor_s_range_holds_its_bytes() {
    let checkpoint = open(two_shards()).unwrap();
    for name in ["a.one", "a.two", "b.one"] {
        let tensor = checkpoint.catalog().get(name).unwrap();
        let mut bytes = vec![0; tensor.bytes() as usize];
        checkpoint
            .source()
            .read_at(&tensor.file, tensor.range.start, &mut bytes)
            .unwrap();
        assert_eq!(bytes, name.as_bytes()[..4]);
        assert_eq!((tensor.elements(), tensor.shape.as_slice()), (1, &[1][..]));
    }
    assert!(checkpoint.catalog().get("a.three").is_none());
}

/// Catches an order by name or by index: a disk would be read back and forth.
#[test]
fn tensors_come_by_file_and_offset() {
    let checkpoint = Checkpoint::open(Arc::new(Local::open(folder("assets/tinyrust")).unwrap()));
    let checkpoint = checkpoint.unwrap();
    let places: Vec<_> = checkpoint
        .catalog()
        .iter()
        .map(|tensor| (tensor.file.to_string(), tensor.range.start))
        .collect();
    assert!(places.is_sorted(), "{places:?}");
}

/// Catches a folder searched for `*.safetensors`: a stray shard of another saving would be loaded.
#[test]
fn only_the_files_in_the_index_are_read() {
    let source = Arc::new(
        two_shards()
            .with("s3.safetensors", shard(&["c.one"]))
            .with("model.safetensors", shard(&["a.one"])),
    );
    let checkpoint = Checkpoint::open(Arc::clone(&source) as _).unwrap();
    let names: Vec<_> = checkpoint.files().iter().map(|file| &*file.name).collect();
    assert_eq!(names, ["s1.safetensors", "s2.safetensors"]);
    // Each file's header once: its length, then the rest of it.
    for name in names {
        let reads = source.reads();
        assert_eq!(
            reads.iter().filter(|(file, _)| file == name).count(),
            2,
            "{name}"
        );
    }
    assert!(
        source
            .reads()
            .iter()
            .all(|(file, _)| { !["s3.safetensors", "model.safetensors"].contains(&file.as_str()) })
    );
}

/// Catches an index that overrules the file the user named.
#[test]
fn a_named_file_is_all_the_weights() {
    let file = folder("assets/tinyrust/model-00003-of-00003.safetensors");
    let checkpoint = Checkpoint::open(Arc::new(Local::open(file).unwrap())).unwrap();
    assert_eq!(checkpoint.files().len(), 1);
    assert_eq!(checkpoint.total_bytes(), 1_116_008);
    assert_eq!(checkpoint.config()["model_type"], "llama");
}

#[test]
fn a_checkpoint_without_generation_config_opens() {
    let checkpoint = open(two_shards()).unwrap();
    assert!(checkpoint.generation_config().is_none());
}

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
fn a_missing_shard_is_named_with_its_index() {
    let error = refused(
        two_shards().without("s1.safetensors"),
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
fn a_configuration_that_is_not_an_object_is_refused() {
    for file in ["config.json", "generation_config.json"] {
        let error = refused(two_shards().with(file, "[1]"), &[file]);
        assert!(
            matches!(error, CheckpointError::NotAnObject { .. }),
            "{error:?}"
        );
        let error = refused(two_shards().with(file, "{\"a\": NaN}"), &[file, "line 1"]);
        assert!(matches!(error, CheckpointError::Json { .. }), "{error:?}");
    }
}

/// `preserve_order`: catches a feature lost, and with it a config written back in another order.
#[test]
fn the_configuration_keeps_its_order() {
    let source = two_shards().with("config.json", r#"{"z":1,"a":2,"m":3}"#);
    let checkpoint = open(source).unwrap();
    let keys: Vec<_> = checkpoint.config().as_object().unwrap().keys().collect();
    assert_eq!(keys, ["z", "a", "m"]);
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

/// What writers in use leave in `metadata` is no reason to refuse a model.
#[test]
fn a_total_size_is_taken_when_it_is_a_count() {
    for (metadata, total) in [
        (r#""metadata":{"total_size":12},"#, Some(12)),
        (r#""metadata":{"total_size":12.0},"#, Some(12)),
        (r#""metadata":{"total_size":1.5},"#, None),
        (r#""metadata":{"total_size":-1},"#, None),
        (r#""metadata":{"total_size":"12"},"#, None),
        (r#""metadata":{},"#, None),
        (r#""metadata":null,"#, None),
        (r#""metadata":"x","#, None),
        ("", None),
    ] {
        let text = format!(r#"{{{metadata}"weight_map":{{"w":"b","v":"a","u":"b"}}}}"#);
        let index = Index::parse("i", text.as_bytes()).unwrap();
        assert_eq!(index.total_size, total, "{metadata}");
        assert!(index.files().into_iter().eq(["a", "b"]));
    }
}

#[test]
fn an_empty_catalog_is_empty() {
    let catalog = Catalog::build([], None).unwrap();
    assert!(catalog.is_empty());
    assert_eq!(catalog.into_iter().count(), 0);
}
