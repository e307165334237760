//! The index of a checkpoint in shards: no shard leads out of the folder.
//!
//! Input: `model.safetensors.index.json`.

#![cfg_attr(fuzzing, no_main)]

use std::path::{Component, Path};

use firebox::source::Index;

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| run(data));

pub(crate) fn run(file: &[u8]) {
    let Ok(index) = Index::parse("index", file) else {
        return;
    };
    assert!(!index.weight_map.is_empty());
    for shard in index.files() {
        let mut parts = Path::new(shard).components();
        assert!(
            parts.all(|part| matches!(part, Component::Normal(_))),
            "{shard:?}"
        );
        assert!(
            !shard.is_empty() && !shard.contains(['\\', ':', '\0']),
            "{shard:?}"
        );
    }
}
