//! Files of other projects as checkpoints: PyTorch's, and Burn's.

#![cfg(feature = "cpu")]

#[path = "../common/mod.rs"]
mod common;

mod archive;
mod attacks;
mod file;
mod torch;
