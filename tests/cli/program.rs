//! The program as others run it: exit codes, what is on stdout and what on stderr, and numbers. A file a
//! command.

#![cfg(feature = "cpu")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../resume/files.rs"]
mod files;
#[cfg(feature = "hub")]
#[path = "../common/http.rs"]
mod http;
#[cfg(feature = "hub")]
#[path = "../common/loopback.rs"]
mod loopback;

mod ranks;
mod run;

mod usage;

mod any;
mod bench;
#[cfg(feature = "store")]
mod containers;
mod models;
mod old_names;
mod plan;
mod planning;

mod limits;
mod load;

mod generate;

mod adapters;
mod eval;
mod expand;
mod logits;
mod outputs;

mod synth;

mod verify;

#[cfg(unix)]
mod faults;
#[cfg(unix)]
mod finetune;
#[cfg(feature = "hub")]
mod hub;
#[cfg(unix)]
mod killed;
#[cfg(target_os = "linux")]
mod memory;
#[cfg(feature = "mpi")]
mod mpi;
#[cfg(all(target_os = "linux", feature = "tui"))]
mod terminal;
