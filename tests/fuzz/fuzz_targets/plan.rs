//! Dialect and plan of a checkpoint: a plan that is made can be written and read back, and prints.
//!
//! Input: see `checkpoint.rs`.

#![cfg_attr(fuzzing, no_main)]

use firebox::{model::CausalLm, plan::Plan};

#[path = "checkpoint.rs"]
mod checkpoint;

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| run(data));

pub(crate) fn run(data: &[u8]) {
    let Some(loader) = checkpoint::loader(data) else {
        return;
    };
    match loader.plan::<CausalLm>() {
        Ok(plan) => {
            let json = serde_json::to_string(&plan).expect("a plan is data");
            let again: Plan = serde_json::from_str(&json).expect("a plan is read back");
            assert_eq!(plan.to_string(), again.to_string());
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
