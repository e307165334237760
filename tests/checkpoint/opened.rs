//! What opens, and what is found in it.

use std::{path::PathBuf, sync::Arc};

use firebox::source::{Catalog, Checkpoint, Index, Local, StoredType, TensorInfo};

use super::{open, shard, two_shards};

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
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
            StoredType::BF16,
            "llama",
        ),
        (
            "llama_bf16_untied",
            6,
            39,
            4_461_056,
            4_465_328,
            StoredType::BF16,
            "llama",
        ),
        (
            "llama_f16_tied_bias",
            1,
            34,
            203_264,
            206_688,
            StoredType::F16,
            "llama",
        ),
        (
            "llama_f32_tied",
            4,
            38,
            2_232_832,
            2_236_888,
            StoredType::F32,
            "llama",
        ),
        (
            "mistral_bf16",
            1,
            21,
            266_880,
            269_048,
            StoredType::BF16,
            "mistral",
        ),
        (
            "qwen2_bf16_tied",
            1,
            26,
            201_856,
            204_536,
            StoredType::BF16,
            "qwen2",
        ),
        (
            "qwen3_bf16",
            5,
            25,
            291_648,
            294_328,
            StoredType::BF16,
            "qwen3",
        ),
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

/// `preserve_order`: catches a feature lost, and with it a config written back in another order.
#[test]
fn the_configuration_keeps_its_order() {
    let source = two_shards().with("config.json", r#"{"z":1,"a":2,"m":3}"#);
    let checkpoint = open(source).unwrap();
    let keys: Vec<_> = checkpoint.config().as_object().unwrap().keys().collect();
    assert_eq!(keys, ["z", "a", "m"]);
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
