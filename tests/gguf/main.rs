//! GGUF files: their headers, models that are read from them, in one file or in parts, and models that are written, in mixtures of types too.

#![cfg(feature = "cpu")]

#[path = "../common/mod.rs"]
mod common;

mod architectures;
mod file;
mod header;
mod mixtures;
mod models;
mod parts;
mod written;
