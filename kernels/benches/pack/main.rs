//! How fast the host halves are, on one thread and on all, against how fast the same machine reads memory.
//!
//! ```console
//! $ cargo bench -p firebox-kernels --bench pack -- nf4
//! ```
//!
//! Any word leaves only the cases that contain it. Answers are compared before they are timed; a wrong one fails the
//! benchmark.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark prints"
)]

mod measure;
mod pack;

use std::{env, process::ExitCode};

use measure::Bench;

fn main() -> ExitCode {
    // Cargo itself adds `--bench`.
    let only = env::args().skip(1).filter(|word| word != "--bench");
    let mut bench = Bench::new(only.collect());
    pack::run(&mut bench);
    bench.finish()
}
