//! Several ranks hold one model together: each reads its own bytes, and together they have the bytes of one process.

#![cfg(feature = "cpu")]

#[path = "../common/mod.rs"]
mod common;

mod divided;
mod families;
mod meeting;
mod model;
mod refused;
