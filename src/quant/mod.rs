//! Quantization, in four words: a **format** says what packed bits mean
//! ([`Format`](firebox_kernels::format::Format)), a **method** chooses the codes ([`Method`]), a dialect
//! is how a project writes a format to disk, a [target](crate::target) is where it runs.
//!
//! This room is a vocabulary, not a stage: the plan asks it for sizes, the pipeline for packers, the model for products.

#[cfg_attr(
    feature = "ndarray",
    allow(deprecated, reason = "it is a target for as long as Burn has it")
)]
#[allow(
    missing_debug_implementations,
    reason = "what Burn's macro adds has none"
)]
pub(crate) mod gradient;
mod ops_autodiff;
#[cfg(feature = "cube")]
mod ops_cube;
mod ops_host;
pub(crate) mod scratch;

#[cfg_attr(
    feature = "ndarray",
    allow(deprecated, reason = "it is a target for as long as Burn has it")
)]
pub mod ops;
mod packed;

mod dense;

/// The crate of the formats, with which a custom [`Method`] is written.
pub use firebox_kernels as kernels;
pub use firebox_kernels::packing::{Method, Packing};
pub use packed::{Layout, PackedWeight};

pub use crate::config::quant::{Mixture, QuantSpec, SpecError};
