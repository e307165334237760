//! Loads language-model checkpoints into [Burn](https://burn.dev), quantizing them while they stream in.
//!
//! ```no_run
//! use firebox::{Cpu, LoadConfig, Loader, model::llama::Llama};
//!
//! let config = LoadConfig::new("assets/tinyrust").quant("nf4:block=64,nested".parse()?);
//! let loader = Loader::<Cpu>::new(config)?;
//! println!("{}", loader.plan::<Llama>()?);
//!
//! let loaded = loader.load::<Llama>()?;
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
//! | module | takes | gives |
//! |---|---|---|
//! | [`config`] | what the caller wants | a [`LoadConfig`] |
//! | [`source`] | a folder, a hub model, memory | a [`Checkpoint`](source::Checkpoint): configuration and the place of every tensor, no weights |
//! | [`dialect`] | configuration and tensors of a quantized checkpoint | which tensors make up each weight, and their format |
//! | [`plan`] | a checkpoint and the [slots](model::Slot) of an [architecture](model::Architecture) | a [`Plan`](plan::Plan): what happens to every tensor, with all sizes |
//! | [`pipeline`] | a plan and a source | finished weights, to a [`Sink`](pipeline::Sink) |
//! | [`observe`] | what happens meanwhile | callbacks, JSON lines, progress; a way to stop |
//! | [`model`] | finished weights | a Burn module |
//! | [`stream`] | finished weights | matrices that come to the device when they are needed |
//! | [`save`] | finished weights | a checkpoint that the Python libraries read |
//! | [`tokenizer`] | `tokenizer.json` and friends | text to ids and back |
//!
//! Beside the road: [`verify`] (how far packed weights are from their source), [`target`] (where a model goes, as a
//! type), [`quant`] (methods, packed weights and
//! their products; the formats themselves are the crate `firebox-kernels`), [`report`] and [`synth`].
//!
//! Imports run `config, source, quant, model::slot → dialect → plan → pipeline → loader`: the plan sees slots and
//! sizes, never an architecture or a kernel.
//!
//! # Errors
//!
//! Everything that can be wrong with what a user has is an [`Error`] that names the tensor or file,
//! both numbers, and what to do. A panic is a bug of ours.
//!
//! # Longer texts
//!
//! [Decisions](_docs::design), [how to add a format, a method, a target…](_docs::extend),
//! [measurements](_docs::benchmarks).

// In the order data meets them; blank lines keep it that way.
pub mod config;

pub mod source;

pub mod dialect;
pub mod model;
pub mod quant;
pub mod target;

pub mod plan;

pub mod observe;
pub mod pipeline;

pub mod stream;

mod auto;
mod presinq;

mod loader;

mod shared;

pub mod report;
pub mod save;
pub mod tokenizer;
pub mod verify;

pub mod synth;

mod error;

pub use config::{Keep, LoadConfig, Rule, Strategy, Workers};
pub use error::Error;
pub use loader::{Loaded, Loader, Loading, Running, Saving, load_model_and_tokenizer};
pub use shared::Shared;
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
    #[doc = include_str!("docs/extend.md")]
    pub mod extend {}
    #[doc = include_str!("docs/benchmarks.md")]
    pub mod benchmarks {}
}

/// The README's program compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
