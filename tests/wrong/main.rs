//! A quantized checkpoint is read as its layout is documented, or refused: right ones, written out by hand, and
//! the same ones with one thing wrong.
//!
//! A file that is read in another way than it was written loads without a complaint and answers nonsense, so
//! each refusal is looked at: which error it is, before or after weights were read, and whether the message
//! names the tensor or field and what both sides say.

#![cfg(feature = "cpu")]

mod bitsandbytes;
mod calibrated;
mod compressed_tensors;
mod config;
mod dense;
mod experts;
mod fp8;
mod hqq;
mod mlx;
mod modelopt;
mod named;
mod saving;
mod undeclared;
mod whole;
