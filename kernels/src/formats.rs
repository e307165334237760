//! The formats: how the codes of each are chosen and dequantized, on the host and on devices.
//!
//! A format's file is its host half; the files below it are its device half (`cube` dequantizes, `pack_cube` packs).
//! [`bits4`] (NF4 and FP4, with [`nested`] scales), [`fp8`], [`mod@affine`] with three methods that choose its codes
//! (MLX's own, [`hqq`], [`wna16`]), [`int8`], [`micro`], [`gguf`], `halves`. `dequantize` chooses among them.

pub mod affine;
pub mod bits4;
mod dequantize;
pub mod fp8;
pub mod gguf;
pub(crate) mod halves;
pub mod hqq;
pub mod int8;
pub mod micro;
pub mod nested;
pub mod wna16;
