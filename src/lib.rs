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
//!                                    └─ a value: printed, tested, written and read back
//! ```
//!
//! | room | holds |
//! |---|---|
//! | [`config`] | what the caller asks for, as data |
//! | [`source`] | files and their headers: a [`Checkpoint`](source::Checkpoint) knows the place of every tensor |
//! | [`quant`] | packed tensors, methods that pack them, operations on them |
//! | [`target`] | the devices that a model can go to |
//! | [`collective`] | sums and exchanges between the ranks of one computation |
//! | [`model`] | modules and the [slots](model::Slot) that they want filled: layers, [architectures](model::Architecture) |
//! | [`adapter`] | small trained changes of a model |
//! | [`dialect`] | how Python projects write packed weights |
//! | [`container`] | files of other projects, as another view of their bytes |
//! | [`expand`] | new blocks of a model, as another view of its checkpoint |
//! | [`plan`] | the decision about every tensor, with all sizes |
//! | [`observe`] | events, and how an observer stops a load |
//! | [`pipeline`] | reading and converting within a budget of bytes |
//! | `prepare` | measurements that need weights before they are packed |
//! | [`place`] | the ends of the pipeline: a module, a comparison, a folder |
//! | [`ranks`] | several processes that hold one model together |
//! | [`report`] | numbers and pictures of a load |
//! | [`text`] | the tokenizer |
//! | [`Loader`] | the road from a configuration to a module |
//! | [`train`] | from text to a trained adapter |
//! | [`recommend`] | a configuration for a model and a memory |
//! | [`publish`] | a finished folder becomes a model that others can load |
//!
//! A room imports only rooms above it.
//!
//! # Words
//!
//! Each word has one meaning, and no two types have one name.
//!
//! | word | meaning | type |
//! |---|---|---|
//! | configuration | what the caller asks for, as data | [`LoadConfig`], [`SaveConfig`], [`VerifyConfig`], [`PushConfig`](config::PushConfig) |
//! | request | a configuration with a source, observers and shared memory | [`LoadRequest`] |
//! | source | a place that files come from | [`Source`](source::Source) |
//! | checkpoint | the opened files of one model | [`Checkpoint`](source::Checkpoint) |
//! | tensor | a named array of a checkpoint | [`TensorInfo`](source::TensorInfo) |
//! | stored type | the type of a tensor in a file, one of 22 | [`StoredType`](source::StoredType) |
//! | value | one number of a tensor | |
//! | dtype | the type of dense values: f32, f16 or bf16 | [`DType`] |
//! | slot | a place in a model that values go to | [`Slot`](model::Slot) |
//! | weight | the finished tensor of a module | [`Weights`](model::Weights) |
//! | new block | a copy of a layer that changes nothing until it is trained | [`Expansion`](expand::Expansion) |
//! | expert | one of the MLPs of a layer, of which a router chooses some for each token | [`Experts`](model::layers::Experts) |
//! | dense, packed | one float a value; codes and scales | [`PackedWeight`](quant::PackedWeight) |
//! | quantization | how a weight is to be packed, in words | [`QuantSpec`](quant::QuantSpec) |
//! | container | a file of tensors of another project, seen as safetensors | |
//! | store | a checkpoint from which modules of Burn take tensors | [`Store`] |
//! | format | the meaning of packed words and scales | [`Format`](quant::kernels::format::Format) |
//! | method | chooses codes and scales of a format | [`Method`](quant::Method) |
//! | dialect | the way in which a project writes packed weights | [`Dialect`](dialect::Dialect) |
//! | adopted | packed in the checkpoint, and used as it is | [`Adopt`](dialect::Adopt) |
//! | step | what happens to one slot | [`Step`](plan::Step) |
//! | piece | some rows of a stored tensor | [`Piece`](plan::Piece) |
//! | tile | the rows that are read and converted at once | |
//! | rank | one of several processes or threads that compute together | [`Collective`](collective::Collective) |
//! | strategy | where finished weights live, and how far reading is ahead | [`Strategy`] |
//! | streamed | brought to the device for each product | [`StreamFrom`] |
//! | part | what one rank keeps of a weight | [`RankPart`](plan::RankPart) |
//! | cache | packed weights on disk for the next load | [`LoadConfig::cache_packed`] |
//! | target | a kind of device | [`Target`] |
//! | sink | takes finished weights | [`Sink`](pipeline::Sink) |
//!
//! # Errors
//!
//! Everything that can be wrong with the files and options of a user is an [`Error`] that names the tensor or file,
//! both numbers, and the remedy. A panic is a bug of this crate.
//!
//! # Longer texts
//!
//! [Formats](_docs::formats), [containers](_docs::containers), [models](_docs::models), [the program](_docs::program),
//! [planning and memory](_docs::planning), [sources](_docs::sources),
//! [strategies](_docs::strategies), [several devices](_docs::placement), [training](_docs::training),
//! [targets](_docs::targets), [ranks](_docs::ranks), [decisions](_docs::design), [how to add a family, a format, a method…](_docs::extend),
//! [coming from Python](_docs::migration), [reliability](_docs::reliability), [measurements](_docs::benchmarks).

// The order of imports: a room imports only rooms above it, and no two files of different folders import each other
// (`tests/frame` reads the order here). Blank lines keep the order.
pub mod config;

pub mod source;

pub mod quant;

pub mod target;

pub mod collective;

pub mod model;

pub mod adapter;

pub mod dialect;

pub mod container;

pub mod expand;

pub mod plan;

pub mod observe;

pub mod pipeline;

mod prepare;

pub mod place;

pub mod ranks;

pub mod report;

pub mod text;

pub mod synth;

mod error;

mod loader;

pub mod train;

pub mod recommend;

#[cfg(any(feature = "hub", feature = "remote"))]
pub mod publish;

pub use config::{LoadConfig, Rule, SaveConfig, Strategy, StreamFrom, VerifyConfig, Workers};
pub use error::Error;
pub use loader::{
    LoadRequest, Loaded, LoadedPart, Loader, Loading, Planner, ReadRate, Running, Saving,
    load_model_and_tokenizer,
};
#[cfg(feature = "store")]
pub use loader::{SavedBurnpack, Store, StoreError};
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
    #[doc = include_str!("docs/containers.md")]
    pub mod containers {}
    #[doc = include_str!("docs/models.md")]
    pub mod models {}
    #[doc = include_str!("docs/program.md")]
    pub mod program {}
    #[doc = include_str!("docs/planning.md")]
    pub mod planning {}
    #[doc = include_str!("docs/sources.md")]
    pub mod sources {}
    #[doc = include_str!("docs/placement.md")]
    pub mod placement {}
    #[doc = include_str!("docs/strategies.md")]
    pub mod strategies {}
    #[doc = include_str!("docs/training.md")]
    pub mod training {}
    #[doc = include_str!("docs/ranks.md")]
    pub mod ranks {}
    #[doc = include_str!("docs/targets.md")]
    pub mod targets {}
    #[doc = include_str!("docs/reliability.md")]
    pub mod reliability {}
    #[doc = include_str!("docs/migration.md")]
    pub mod migration {}
    #[doc = include_str!("docs/extend.md")]
    pub mod extend {}
    #[doc = include_str!("docs/benchmarks.md")]
    pub mod benchmarks {}
}

/// The README's program compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
