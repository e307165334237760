//! Files of other projects as checkpoints: PyTorch's, and Burn's; checkpoints as stores of Burn.

#![cfg(feature = "cpu")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/conformance.rs"]
mod conformance;

mod archive;
mod attacks;
#[cfg(feature = "store")]
mod burnpack;
#[cfg(feature = "store")]
mod everywhere;
mod file;
#[cfg(feature = "store")]
mod store;
mod torch;
