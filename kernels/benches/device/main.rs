//! How fast packed weights are on devices, against how fast the same device copies memory.
//!
//! ```console
//! $ cargo bench -p firebox-kernels --features cuda --bench device -- --full
//! ```
//!
//! * `--full`: all shapes also on a device that is software, where only small ones run otherwise;
//! * `--target NAME`: one of the targets compiled in, which otherwise all run;
//! * `--json FILE`: the figures for programs too;
//! * any other word: only operations, formats or shapes that contain it.
//!
//! A target that is to run has to have a device. Answers are compared with the host's: codes whole and
//! to the bit, what comes back and products in a sample of rows. What answers otherwise is told, not timed, and
//! fails the benchmark.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark prints"
)]

#[path = "../../tests/common/mod.rs"]
mod common;
mod copy;
mod measure;
mod operations;
mod table;
#[allow(
    unused_imports,
    unused_macros,
    reason = "its macro is for tests, its devices are for both"
)]
#[path = "../../tests/device/targets.rs"]
mod targets;

use std::{env, fs, process::ExitCode};

use cubecl::client::Client;
use serde_json::json;

/// What the command line says.
#[derive(Debug, Default)]
struct Options {
    full: bool,
    target: Option<String>,
    json: Option<String>,
    only: Vec<String>,
}

/// A name, and what opens the device.
type Target = (&'static str, fn() -> Client);

fn main() -> ExitCode {
    let options = options();
    let mut all = Vec::new();
    let mut wrong = 0;
    let mut targets = targets();
    if let Some(wanted) = &options.target {
        targets.retain(|(target, _)| target == wanted);
        assert!(!targets.is_empty(), "{wanted} is not compiled in");
    }
    for (target, open) in targets {
        let client = open();
        let identity = &client.properties().identity;
        let software = identity.physical.is_none();
        let device = identity.name.clone();
        println!("\n## {target}: {device}\n");
        let sizes = operations::Sizes::new(!software || options.full, software);
        let copy = copy::bandwidth(&client, &sizes);
        println!(
            "Copies by a kernel: {:.1} GB/s, read and written.",
            copy / 1e9
        );
        #[cfg(feature = "cuda")]
        if target == "cuda" {
            let driver = copy::by_driver(copy::BYTES);
            println!("Copies by the driver: {:.1} GB/s.", driver / 1e9);
        }
        println!();
        table::head();
        let mut rows = Vec::new();
        wrong += operations::run(&client, &sizes, copy, &options.only, &mut |row| {
            table::line(&row, copy);
            rows.push(row);
        });
        all.push(json!({
            "target": target, "device": device, "software": software, "copy_bytes_per_second": copy,
            "operations": rows.iter().map(table::Row::json).collect::<Vec<_>>(),
        }));
    }
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&all).expect("figures are JSON");
        fs::write(path, text).unwrap_or_else(|error| panic!("{path}: {error}"));
    }
    ExitCode::from(u8::from(wrong > 0))
}

fn options() -> Options {
    let mut options = Options::default();
    let mut words = env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            // What cargo says to every benchmark.
            "--bench" => {}
            "--full" => options.full = true,
            "--target" => options.target = Some(words.next().expect("--target NAME")),
            "--json" => options.json = Some(words.next().expect("--json FILE")),
            word if word.starts_with('-') => panic!("{word} is no option of this benchmark"),
            word => options.only.push(word.to_owned()),
        }
    }
    options
}

fn targets() -> Vec<Target> {
    vec![
        #[cfg(feature = "cuda")]
        ("cuda", targets::cuda),
        #[cfg(feature = "vulkan")]
        ("vulkan", targets::vulkan),
        #[cfg(feature = "webgpu")]
        ("webgpu", targets::webgpu),
    ]
}
