//! Packed weights on every device target compiled in, against the host.

#![cfg(feature = "cube")]

mod common;

#[path = "device/targets.rs"]
mod targets;

#[path = "device/compare.rs"]
mod compare;
#[path = "device/linear.rs"]
mod linear;
#[path = "device/unpack.rs"]
mod unpack;
