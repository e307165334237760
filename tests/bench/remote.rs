//! How fast a model comes over loopback, from a web server and from an object store: alone, into a dense model, and with NF4 behind it;
//! against `curl` of the same files from the same server in the same round.
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
#[path = "../common/s3.rs"]
mod s3;

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use file_server::FileServer;
use firebox::{
    Cpu, LoadConfig, Loader,
    model::CausalLm,
    source::{Checkpoint, Remote, RemoteBuilder, Source, SourceExt},
    synth::{self, Like},
};
use s3::{BUCKET, KEY_ID, S3Server, SECRET};

type Failure = Box<dyn std::error::Error>;

/// Bytes of a read, as loads have them.
const READ_BYTES: u64 = 16 << 20;

/// A server that has the model.
struct Place {
    name: &'static str,
    source: RemoteBuilder,
    /// The addresses of the files of weights.
    files: Vec<String>,
    /// What `curl` has to be told beside them.
    options: Vec<String>,
}

fn main() -> Result<(), Failure> {
    let args: Vec<String> = env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let model = match args.first() {
        Some(model) => PathBuf::from(model),
        None => synthetic()?,
    };
    let rounds: usize = args.get(1).map_or(Ok(3), |rounds| rounds.parse())?;
    let names: Vec<String> = std::fs::read_dir(&model)?
        .filter_map(|file| file.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".safetensors"))
        .collect();
    let server = FileServer::serve(&model);
    let store = S3Server::start();
    store.put_folder("model", &model);
    let user = format!("{KEY_ID}:{SECRET}");
    let signed = [
        "--aws-sigv4",
        "aws:amz:us-east-1:s3",
        "--user",
        &user,
        // Without it the server takes the signature for another one.
        "--header",
        "x-amz-content-sha256: UNSIGNED-PAYLOAD",
    ];
    let in_store = format!("{}/{BUCKET}/model", store.url);
    let addresses = |folder: &str| {
        names
            .iter()
            .map(|name| format!("{folder}/{name}"))
            .collect()
    };
    let places = [
        Place {
            name: "http",
            source: Remote::builder(&server.url),
            files: addresses(&server.url),
            options: Vec::new(),
        },
        Place {
            name: "s3",
            source: Remote::builder(format!("s3://{BUCKET}/model"))
                .environment(S3Server::environment(&store.url)),
            files: addresses(&in_store),
            options: signed.map(str::to_owned).to_vec(),
        },
    ];
    println!("| server | round | curl | read | read / curl | dense | nf4 | fetched |");
    println!("|---|---|---|---|---|---|---|---|");
    for round in 0..=rounds {
        for place in &places {
            let [curl, read] = [curl(place)?, read(place)?];
            let (dense, _) = load(place, "none")?;
            let (nf4, fetched) = load(place, "nf4")?;
            // The first brings the files into the page cache.
            if round > 0 {
                let (name, ratio) = (place.name, read / curl);
                println!(
                    "| {name} | {round} | {curl:.2} GB/s | {read:.2} GB/s | {ratio:.2} | {dense:.2} GB/s | {nf4:.2} GB/s | {fetched} |"
                );
            }
        }
    }
    Ok(())
}

/// GB/s of `curl`, all files at once.
fn curl(place: &Place) -> Result<f64, Failure> {
    let mut command = Command::new("curl");
    command.args([
        "--silent",
        "--no-progress-meter",
        "--fail",
        "--parallel",
        "--write-out",
        "%{size_download}\\n",
    ]);
    command.args(&place.options);
    for file in &place.files {
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

/// GB/s of the same files in large ranges, as many at once as the source wants, into memory that is used again.
fn read(place: &Place) -> Result<f64, Failure> {
    let started = Instant::now();
    let source = Arc::new(place.source.clone().build()?);
    let checkpoint = Checkpoint::open(source.clone())?;
    let mut ranges = Vec::new();
    for file in checkpoint.files() {
        let starts = (0..file.bytes).step_by(READ_BYTES as usize);
        ranges.extend(starts.map(|start| (&file.name, start..file.bytes.min(start + READ_BYTES))));
    }
    let next = AtomicUsize::new(0);
    let read_some = || {
        let mut into = vec![0; READ_BYTES as usize];
        let mut bytes = 0;
        while let Some((file, range)) = ranges.get(next.fetch_add(1, Ordering::Relaxed)) {
            let len = (range.end - range.start) as usize;
            source.read_at(file, range.start, &mut into[..len])?;
            bytes += len;
        }
        Ok::<_, firebox::source::SourceError>(bytes)
    };
    let bytes: usize = thread::scope(|scope| {
        let threads: Vec<_> = (0..source.concurrency())
            .map(|_| scope.spawn(read_some))
            .collect();
        let read = threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"));
        read.sum::<Result<usize, _>>()
    })?;
    Ok(bytes as f64 / started.elapsed().as_secs_f64() / 1e9)
}

/// GB/s of a load of source bytes, and what was fetched.
fn load(place: &Place, quant: &str) -> Result<(f64, String), Failure> {
    let source = Arc::new(place.source.clone().build()?);
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
