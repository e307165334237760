//! The device halves against the host, on every device target compiled in.

#![cfg(feature = "cube")]

#[path = "../common/mod.rs"]
mod common;

mod targets;

mod pack;
mod pack_whole;
