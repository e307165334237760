//! Formats of packed weights: what the bytes mean, said once for the host and (from `cube` on) once
//! for the device.
//!
//! A packed weight is two buffers of `u32` words and a [`Format`](format::Format):
//!
//! * `words`: the codes, row-major `[out, in]`, least-significant code first inside little-endian words;
//! * `scales`: everything else the format needs to give a weight back, as bit patterns.
//!
//! Reading order: [`float`] (source values) → [`mod@format`] (the layout) → [`number`] (what weights are given
//! back in) → [`pack`] (codes in words) → [`packer`] (how tiles of a weight become packed) → what 4-bit formats
//! share ([`reduce`], [`nested`], [`blocks`]) → the formats themselves ([`nf4`], [`fp4`], [`fp8`],
//! [`mod@affine`], [`int8`], [`micro`]), the methods [`hqq`] and [`wna16`] → [`linear`].

pub mod error;

pub mod float;

#[cfg(feature = "cube")]
pub mod launch;

#[cfg(feature = "cube")]
mod exact;

pub mod format;

mod lanes;

pub mod number;

pub mod pack;

pub mod packer;

pub mod packing;
#[cfg(feature = "cube")]
pub mod quantize;

pub mod reduce;

pub mod nested;

pub mod blocks;

pub mod nf4;

pub mod fp4;

pub mod fp8;

pub mod affine;

pub mod int8;

pub mod micro;

pub mod hqq;

pub mod wna16;

pub mod part;

pub mod linear;

#[cfg(feature = "cube")]
pub mod device;

pub mod compare;

pub mod checksum;

#[cfg(all(test, feature = "cube"))]
#[path = "../tests/device/targets.rs"]
mod targets;
