//! GGUF files: their headers, models that are read from them, in one file or in parts, and models that are written.

#![cfg(feature = "cpu")]

#[path = "../common/mod.rs"]
mod common;

mod file;
mod header;
mod models;
mod parts;
mod written;
