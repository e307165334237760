//! Loads language-model checkpoints into [Burn](https://burn.dev), quantizing them while they stream in.
//!
//! ```no_run
//! use firebox::{Cpu, LoadConfig, Loader, model::CausalLm};
//!
//! let config = LoadConfig::new("assets/tinyrust").quant("nf4:block=64,nested".parse()?);
//! let loader = Loader::<Cpu>::new(config)?;
//! println!("{}", loader.plan::<CausalLm>()?);
//!
//! let loaded = loader.load::<CausalLm>()?;
//! println!("{}", loaded.report);
//! # Ok::<(), firebox::Error>(())
//! ```
//!
//! # The way of the data
//!
//! ```text
//! config ─► source ─► checkpoint ─► plan ─► read ─► convert ─► place ─► module ─► text
//!                                    │      (tiles, one byte budget)
//!                                    └─ is a value: printable, testable, serialisable
//! ```
//!
//! | room | holds |
//! |---|---|
//! | [`config`] | the request: plain data |
//! | [`source`] | the files there are: a [`Checkpoint`](source::Checkpoint) is configuration and the place of every tensor |
//! | [`quant`] | packed tensors, methods that pack them, operations on them |
//! | [`target`] | the devices a model can go to |
//! | [`model`] | the modules that want tensors: [slots](model::Slot), layers, [architectures](model::Architecture) |
//! | [`dialect`] | the ways in which Python projects write packed weights |
//! | [`plan`] | the decision about every tensor, with all sizes |
//! | [`observe`] | events, and how to stop a load |
//! | [`pipeline`] | reading and converting, within a budget of bytes |
//! | `prepare` | measurements that need weights before they are packed |
//! | [`place`] | the ends of the pipeline: a module, a comparison, a folder |
//! | [`report`] | numbers and pictures of a load |
//! | [`text`] | the tokenizer |
//! | [`Loader`] | the road from a configuration to a module |
//!
//! # Errors
//!
//! Everything that can be wrong with what a user has is an [`Error`] that names the tensor or file,
//! both numbers, and what to do. A panic is a bug of ours.
//!
//! # Longer texts
//!
//! [Formats](_docs::formats), [the program](_docs::program), [strategies](_docs::strategies),
//! [targets](_docs::targets), [decisions](_docs::design), [how to add a family, a format, a method…](_docs::extend),
//! [measurements](_docs::benchmarks).

// The order of imports: a room imports only rooms above it, and no two files of different folders import each other
// (`tests/frame` reads the order here). Blank lines keep the order.
pub mod config;

pub mod source;

pub mod quant;

pub mod target;

pub mod model;

pub mod dialect;

pub mod plan;

pub mod observe;

pub mod pipeline;

mod prepare;

pub mod place;

pub mod report;

pub mod text;

pub mod synth;

mod error;

mod loader;

pub use config::{LoadConfig, Rule, SaveConfig, Strategy, StreamFrom, VerifyConfig, Workers};
pub use error::Error;
pub use loader::{LoadRequest, Loaded, Loader, Loading, Running, Saving, load_model_and_tokenizer};
pub use place::Shared;
#[cfg(feature = "cpu")]
pub use target::Cpu;
#[cfg(feature = "cuda")]
pub use target::Cuda;
#[cfg(feature = "metal")]
pub use target::Metal;
#[cfg(feature = "ndarray")]
pub use target::NdArray;
#[cfg(feature = "vulkan")]
pub use target::Vulkan;
#[cfg(feature = "webgpu")]
pub use target::WebGpu;
#[cfg(feature = "wgpu")]
pub use target::Wgpu;
pub use target::{DType, Target};

/// Longer texts, as pages.
pub mod _docs {
    #[doc = include_str!("docs/design.md")]
    pub mod design {}
    #[doc = include_str!("docs/formats.md")]
    pub mod formats {}
    #[doc = include_str!("docs/program.md")]
    pub mod program {}
    #[doc = include_str!("docs/strategies.md")]
    pub mod strategies {}
    #[doc = include_str!("docs/targets.md")]
    pub mod targets {}
    #[doc = include_str!("docs/extend.md")]
    pub mod extend {}
    #[doc = include_str!("docs/benchmarks.md")]
    pub mod benchmarks {}
}

/// The README's program compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
