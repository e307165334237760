//! Quantization, in four words kept apart: a **format** says what packed bits mean
//! ([`Format`](firebox_kernels::format::Format)), a **method** chooses the codes ([`Method`]), a dialect
//! is how a project writes a format to disk, a [target](crate::target) is where it runs.
//!
//! This module is a vocabulary, not a stage: the plan asks it for sizes, the pipeline for packers, the
//! model for products.

pub(crate) mod method;
mod spec;

#[cfg(feature = "autodiff")]
#[cfg_attr(
    feature = "ndarray",
    allow(deprecated, reason = "it is a target for as long as Burn has it")
)]
#[allow(
    missing_debug_implementations,
    reason = "what Burn's macro adds has none"
)]
pub(crate) mod gradient;
#[cfg(feature = "autodiff")]
mod ops_autodiff;
#[cfg(feature = "cube")]
mod ops_cube;
mod ops_host;
#[cfg(any(feature = "cube", feature = "autodiff"))]
mod scratch;

#[cfg_attr(
    feature = "ndarray",
    allow(deprecated, reason = "it is a target for as long as Burn has it")
)]
pub mod ops;
mod packed;

/// The crate of the formats: what a [`Method`] of one's own is written with.
pub use firebox_kernels as kernels;
pub use firebox_kernels::formats::{hqq::Hqq, wna16::Wna16};
pub use method::{Bits4, Fp8, Int8, Method, Mlx};
pub use packed::{Layout, PackedWeight};
pub use spec::{QuantSpec, SpecError};
