//! Opening a checkpoint: the real ones in this repository, and each way in which one can be broken.

mod files;
mod index;
mod opened;
mod python;
mod unindexed;

use std::sync::Arc;

use firebox::source::{Checkpoint, CheckpointError, Memory};

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
