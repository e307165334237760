//! GGUF files: their headers, and models that are read from them.

#![cfg(feature = "cpu")]

#[path = "../common/mod.rs"]
mod common;

mod file;
mod header;
mod models;
