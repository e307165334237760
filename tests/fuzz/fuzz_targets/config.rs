//! The configuration of every family: one that is read names each slot once, and every slot has values.
//!
//! Input: `config.json`.

#![cfg_attr(fuzzing, no_main)]

use std::collections::HashSet;

use firebox::model::{Architecture, CausalLm};

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| run(data));

pub(crate) fn run(file: &[u8]) {
    let Ok(json) = serde_json::from_slice(file) else {
        return;
    };
    let config = match CausalLm::config(&json) {
        Ok(config) => config,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let slots = CausalLm::slots(&config);
    assert!(!slots.is_empty(), "a model without slots");
    let mut names = HashSet::new();
    for slot in &slots {
        assert!(names.insert(&slot.name), "{} twice", slot.name);
        assert!(!slot.shape.contains(&0), "{} has no values", slot.name);
        assert!(!slot.from.is_empty(), "{} comes from nowhere", slot.name);
    }
    for link in CausalLm::links(&config) {
        drop(link);
    }
}
