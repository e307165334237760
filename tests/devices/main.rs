//! Models that are spread over several devices, host memory and disk.
//!
//! The devices are those of the CPU target, which share one memory and are counted apart; with the feature `ndarray`, `across.rs`
//! has two backends whose tensors do not mix.

#![cfg(feature = "cpu")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/formats.rs"]
mod formats;

#[cfg(feature = "ndarray")]
mod across;
mod answers;
mod limits;
mod training;
mod wrong;

use firebox::LoadConfig;

/// A golden model, its linear weights as `quant`.
fn linear(golden: common::Golden, quant: &str) -> LoadConfig {
    let config = LoadConfig::new(golden.path("").to_string_lossy());
    config.quant(quant.parse().expect("a spec"))
}
