//! The program as others run it: exit codes, what is on stdout and what on stderr, and numbers. A file a
//! command.

#![cfg(all(feature = "cli", feature = "cpu"))]

#[path = "../common/mod.rs"]
mod common;

mod run;

mod usage;

mod plan;

mod load;

mod generate;

mod eval;
mod logits;

mod synth;

mod verify;
