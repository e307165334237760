//! How fast a model comes over loopback, with NF4 behind it, against `curl` of the same files from the same server in the same
//! round.
//!
//! ```console
//! $ cargo bench --bench remote            # a synthetic Llama-3-8B of 2 GiB, written once to target/bench
//! $ cargo bench --bench remote -- DIR 5   # another checkpoint, five rounds
//! ```
//!
//! Client, server and packing share the cores of one machine, so the rate with NF4 is that of the processor where it is below `curl`'s.

#![allow(clippy::print_stdout, reason = "a benchmark prints")]

#[path = "../common/file_server.rs"]
mod file_server;
#[path = "../common/http.rs"]
mod http;

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Instant,
};

use file_server::FileServer;
use firebox::{
    Cpu, LoadConfig, Loader,
    model::CausalLm,
    source::{Remote, SourceExt},
    synth::{self, Like},
};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let model = match args.first() {
        Some(model) => PathBuf::from(model),
        None => synthetic()?,
    };
    let rounds: usize = args.get(1).map_or(Ok(3), |rounds| rounds.parse())?;
    let server = FileServer::serve(&model);
    let files: Vec<String> = std::fs::read_dir(&model)?
        .filter_map(|file| file.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".safetensors"))
        .map(|name| format!("{}/{name}", server.url))
        .collect();
    println!("| round | curl | dense | nf4 | fetched |");
    println!("|---|---|---|---|---|");
    for round in 0..=rounds {
        let curl = curl(&files)?;
        let (dense, _) = load(&server.url, "none")?;
        let (nf4, fetched) = load(&server.url, "nf4")?;
        // The first brings the files into the page cache.
        if round > 0 {
            println!("| {round} | {curl:.2} GB/s | {dense:.2} GB/s | {nf4:.2} GB/s | {fetched} |");
        }
    }
    Ok(())
}

/// GB/s of `curl`, all files at once.
fn curl(files: &[String]) -> Result<f64, Failure> {
    let mut command = Command::new("curl");
    command.args([
        "--silent",
        "--fail",
        "--parallel",
        "--write-out",
        "%{size_download}\\n",
    ]);
    for file in files {
        command.args(["--output", "/dev/null", file]);
    }
    let started = Instant::now();
    let ran = command.stderr(Stdio::inherit()).output()?;
    let seconds = started.elapsed().as_secs_f64();
    let sizes = String::from_utf8(ran.stdout)?;
    let bytes: f64 = sizes
        .lines()
        .filter_map(|size| size.parse::<f64>().ok())
        .sum();
    match ran.status.success() {
        true => Ok(bytes / seconds / 1e9),
        false => Err("curl failed".into()),
    }
}

/// GB/s of a load of source bytes, and what was fetched.
fn load(url: &str, quant: &str) -> Result<(f64, String), Failure> {
    let source = Arc::new(Remote::open(url)?);
    let request = LoadConfig::default()
        .quant(quant.parse()?)
        .source(source.clone());
    let loaded = Loader::<Cpu>::new(request)?.load::<CausalLm>()?;
    let rate = loaded.report.bytes_per_second() / 1e9;
    let fetched = source.fetched().map(|fetched| fetched.to_string());
    Ok((rate, fetched.unwrap_or_default()))
}

fn synthetic() -> Result<PathBuf, Failure> {
    let out = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench/llama3-8b-2gib");
    if !out.join("config.json").exists() {
        synth::write(
            &synth::Options::new(Like::Llama3_8b, 2 << 30, &out),
            &mut |_, _| {},
        )?;
    }
    Ok(out)
}
