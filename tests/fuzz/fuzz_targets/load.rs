//! A whole load, and two tokens of the model: a model of the sizes that its plan says, or an error.
//!
//! Input: see `checkpoint.rs`.

#![cfg_attr(fuzzing, no_main)]

use core::ops::ControlFlow;

use firebox::model::{CausalLm, GenerateOptions, generate};

#[path = "checkpoint.rs"]
mod checkpoint;

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| run(data));

pub(crate) fn run(data: &[u8]) {
    let Some(loader) = checkpoint::loader(data) else {
        return;
    };
    let loaded = match loader.load::<CausalLm>() {
        Ok(loaded) => loaded,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    assert!(!loaded.report.to_string().is_empty());
    let options = GenerateOptions {
        max_new_tokens: 2,
        ..GenerateOptions::default()
    };
    let mut tokens = 0;
    let count = |_| {
        tokens += 1;
        ControlFlow::Continue(())
    };
    if generate(&loaded.model, &[0, 1], &options, count).is_ok() {
        assert!(tokens <= 2, "{tokens} tokens, 2 were asked for");
    }
}
