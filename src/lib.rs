//! Loads language-model checkpoints into Burn, quantizing them while they stream in.

// In the order data meets them.
pub mod config;

pub mod source;

pub mod model;
pub mod quant;
pub mod target;

pub mod plan;

pub mod pipeline;

mod loader;

pub mod report;
pub mod tokenizer;

pub mod synth;

mod error;

pub use config::{LoadConfig, Rule, Strategy, Workers};
pub use error::Error;
pub use loader::{Loaded, Loader, load_model_and_tokenizer};
#[cfg(feature = "cpu")]
pub use target::Cpu;
pub use target::{DType, Target};
