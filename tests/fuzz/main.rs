//! Every input of the corpus through its fuzz target, without a fuzzer: whatever a fuzzer found once is tried with every test.

#![cfg(feature = "cpu")]
#![allow(
    clippy::duplicate_mod,
    reason = "under the fuzzer each target is a program of its own"
)]

use std::{fs, path::Path};

#[path = "fuzz_targets/adapter.rs"]
mod adapter;
#[path = "fuzz_targets/chat.rs"]
mod chat;
#[path = "fuzz_targets/config.rs"]
mod config;
#[path = "fuzz_targets/data.rs"]
mod data;
#[path = "fuzz_targets/gguf.rs"]
mod gguf;
#[path = "fuzz_targets/header.rs"]
mod header;
#[path = "fuzz_targets/index.rs"]
mod index;
#[path = "fuzz_targets/load.rs"]
mod load;
#[path = "fuzz_targets/pattern.rs"]
mod pattern;
#[path = "fuzz_targets/pickle.rs"]
mod pickle;
#[path = "fuzz_targets/plan.rs"]
mod plan;
#[path = "fuzz_targets/resume.rs"]
mod resume;
#[path = "fuzz_targets/spec.rs"]
mod spec;
#[path = "fuzz_targets/tokenizer.rs"]
mod tokenizer;

/// Runs each file of a folder of the corpus; the name of the file is in the message of a failure.
fn replay(folder: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz/corpus")
        .join(folder);
    let entries =
        fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut inputs = 0;
    for entry in entries {
        let path = entry.expect("an entry").path();
        let input = fs::read(&path).expect("an input");
        let outcome = std::panic::catch_unwind(|| run(&input));
        assert!(outcome.is_ok(), "{}", path.display());
        inputs += 1;
    }
    assert!(inputs > 0, "{}: no inputs", folder.display());
}

macro_rules! replays {
    ($($target:ident of $corpus:literal),+ $(,)?) => {
        $(
            #[test]
            fn $target() {
                replay($corpus, $target::run);
            }
        )+
    };
}

replays! {
    adapter of "adapter",
    chat of "chat",
    config of "config",
    data of "data",
    gguf of "gguf",
    header of "header",
    index of "index",
    load of "load",
    pattern of "pattern",
    pickle of "pickle",
    plan of "load",
    resume of "resume",
    spec of "spec",
    tokenizer of "tokenizer",
}
