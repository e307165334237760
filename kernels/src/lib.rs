//! Formats of packed weights: the meaning of their bytes, written once for the host and (with the feature `cube`) once for
//! devices.
//!
//! A packed weight is two buffers of `u32` words and a [`Format`](format::Format):
//!
//! * `words`: the codes, row-major `[out, in]`, least-significant code first inside little-endian words;
//! * `scales`: everything else that dequantizing needs, as bit patterns.
//!
//! Reading order: [`arith`] (tools that know no format) → [`mod@format`] (what the bits of each format mean) →
//! [`packer`] (how tiles of a weight become packed) → [`formats`] (the codes of each format chosen, and dequantized) →
//! [`packing`] (one list of all methods that choose codes) → [`linear`] (products), [`layers`] (what a pass computes between them),
//! [`compare`] (errors) and [`adamw`] (steps of an optimizer) on the host; `device`, `quantize` and the files `cube` for devices. Each imports only those before it.

pub mod arith;

pub mod format;

pub mod packer;

pub mod formats;

pub mod packing;
#[cfg(feature = "cube")]
pub mod quantize;

#[cfg(feature = "cube")]
pub mod device;

pub mod linear;

pub mod layers;

pub mod compare;

pub mod adamw;

#[cfg(all(test, feature = "cube"))]
#[path = "../tests/device/targets.rs"]
mod targets;
