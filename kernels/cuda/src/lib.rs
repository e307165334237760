//! The kernels of `firebox-kernels`, compiled for CUDA where there is no GPU.
//!
//! `client` is a client that kernels are launched on as on any other: operations choose their kernels by
//! the properties of an NVIDIA H100, and nothing is run. Buffers hold nothing and read as zeros.
//! `launched` gives the kernels, and `compile` compiles one by CubeCL's two ways: LLVM, which its CUDA
//! runtime takes unless told otherwise, and CUDA C++. `nvrtc` and `ptxas` take the answers on to NVIDIA's
//! own compilers, where there are any, and `width` reads how wide the loads are.
#![cfg(feature = "cuda")]

mod compile;
pub mod nvrtc;
pub mod ptxas;
mod server;
pub mod width;

pub use compile::{Compiled, compile, launched};
pub use server::client;

/// What kernels are compiled for: an H100, whose features beyond those of every GPU of its kind `a` stands for.
pub const ARCHITECTURE: &str = "sm_90a";
