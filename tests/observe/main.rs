//! What a load tells: every event, in order, with bytes that add up; and what it does when it is told to stop, by one who
//! fails, too. Handles to loads that run, lines of JSON, pages.

#![cfg(feature = "cpu")]

#[path = "../common/tiny.rs"]
mod common;

#[cfg(feature = "hub")]
#[path = "../common/http.rs"]
mod http;
#[cfg(feature = "hub")]
#[path = "../common/loopback.rs"]
mod loopback;

mod cancel;
#[cfg(feature = "hub")]
mod download;
mod events;
mod json_lines;
mod page;
mod start;

use std::{env, process::Command};

use firebox::{Cpu, Error, LoadConfig, LoadRequest, Loader, pipeline::PipelineError};

/// The model of the repository: three files, 38 tensors.
const TINYRUST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/tinyrust");

fn tinyrust(quant: &str) -> LoadConfig {
    LoadConfig::new(TINYRUST).quant(quant.parse().expect("a spec"))
}

fn loader(config: impl Into<LoadRequest>) -> Loader<Cpu> {
    Loader::new(config).expect("a checkpoint")
}

/// Kind, place and reason of an observer's failure.
fn observer_failure<R>(result: Result<R, Error>) -> (&'static str, String, String) {
    match result.map(|_| ()) {
        Err(Error::Pipeline(PipelineError::Observer { event, at, reason })) => (event, at, reason),
        other => panic!("{other:?}"),
    }
}

/// Runs the test `name` again, alone in a process with these variables; `false` in that process.
fn alone(name: &str, variables: &[(&str, &str)]) -> bool {
    const ALONE: &str = "FIREBOX_TEST_ALONE";
    if env::var_os(ALONE).is_some() {
        return false;
    }
    let program = env::current_exe().expect("a test knows where it is");
    let ran = Command::new(program)
        .args([name, "--exact"])
        .env(ALONE, "")
        // Panics are part of it: looking up where each was takes a second.
        .env("RUST_BACKTRACE", "0")
        .envs(variables.iter().copied())
        .output()
        .expect("a test can be run");
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success() && said.contains("1 passed"), "{said}");
    true
}
