//! Memory as it was planned against memory as it is: packed bytes exactly, peaks of the host and of each device within 3 %.
//!
//! ```console
//! $ cargo bench --bench memory                  # models of 100 to 300 MB, written once to target/bench
//! $ cargo bench --profile dev --bench memory    # the same numbers, of a build that takes a minute
//! ```
//!
//! Every plan and every load is a process of its own, so that its peak is its own; of several loads the highest peak counts, since
//! a plan says what may be needed. The fixed part (what the process has before a weight is read) is measured by the plan itself, and
//! printed apart. Ends with an error where a prediction is off by more.
//!
//! A second table has training runs, whose estimate has to be within 5 % of the most that the process takes.

#![allow(clippy::print_stdout, reason = "a benchmark prints")]

#[path = "memory/cases.rs"]
mod cases;
#[path = "memory/models.rs"]
mod models;
#[path = "memory/training.rs"]
mod training;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::{DType, Int, Tensor},
};
use firebox::{
    LoadConfig, Loader, Strategy, StreamFrom, Target,
    config::{Bytes, Reading},
    model::{CausalLm, NextToken, PassSize, layers::Matrix},
};
use serde_json::{Value, json};

use cases::{CASES, Case};

type Failure = Box<dyn std::error::Error>;

/// Off by at most, in percent.
const OFF_MAX: f64 = 3.0;
/// Bytes that two runs of one load differ by: nothing else is off by so little where a mapped model keeps nothing.
const NOISE: u64 = 256 << 10;
/// In the name of Mesa's driver that computes on the processor.
const SOFTWARE: &str = "llvmpipe";
/// Loads of each combination.
const ROUNDS: usize = 3;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = env::args().skip(1).filter(|arg| arg != "--bench").collect();
    match args.first().map(String::as_str) {
        Some("--child") => child(&args[1..]),
        Some("--trained") => training::child(&args[1..]),
        only => {
            let loads = parent(only);
            let runs = training::parent(&folder(), only);
            loads.and(runs)
        }
    }
}

/// Where models are written.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench/memory")
}

fn parent(only: Option<&str>) -> Result<(), Failure> {
    let folder = folder();
    println!(
        "| target | model | quantization | strategy | read | devices | tokens | fixed | host: planned | measured | off | devices: off |"
    );
    println!("|---|---|---|---|---|---:|---:|---:|---:|---:|---:|---:|");
    let (mut wrong, mut done) = (Vec::new(), 0);
    for (nth, case) in CASES.iter().enumerate() {
        let (target, model, quant, strategy, read, devices, tokens) = *case;
        if only.is_some_and(|only| !format!("{case:?}").contains(only)) {
            continue;
        }
        let path = models::written(&folder, model)?;
        let run = |what: &str| run(what, nth, &path);
        let plan = match run("plan") {
            Ok(plan) => plan,
            Err(error) if error.to_string().contains("not in this build") => continue,
            Err(error) => return Err(error),
        };
        let loads: Vec<Value> = (0..ROUNDS).map(|_| run("load")).collect::<Result<_, _>>()?;
        let number = |value: &Value, field: &str| value[field].as_u64().unwrap_or(0);
        let most = |field: &str| {
            loads
                .iter()
                .map(|load| number(load, field))
                .max()
                .unwrap_or(0)
        };

        let packed = [number(&plan, "bytes_packed"), most("bytes_packed")];
        if packed[0] != packed[1] {
            wrong.push(format!(
                "{case:?}: {} packed bytes planned, {} there",
                packed[0], packed[1]
            ));
        }
        let host = [number(&plan, "peak_host_bytes"), most("peak_host_bytes")];
        // A driver in software has the memory of its device from the host, and compiles kernels there.
        let is_software = plan["devices"][0]["name"]
            .as_str()
            .is_some_and(|name| name.contains(SOFTWARE));
        let host_off = if is_software { 0.0 } else { off(host) };
        let on_devices = (0..devices).map(|device| {
            let peak = |value: &Value| value["devices"][device]["peak_bytes"].as_u64();
            match (peak(&plan), loads.iter().filter_map(peak).max()) {
                (Some(planned), Some(measured)) => off([planned, measured]),
                _ => 0.0,
            }
        });
        let devices_off = on_devices.fold(
            0.0,
            |most: f64, off| if off.abs() > most.abs() { off } else { most },
        );
        println!(
            "| {target} | {model} | `{quant}` | {strategy} | {read} | {devices} | {tokens} | {} | {} | {} | {host_off:+.1} % | {devices_off:+.1} % |",
            Bytes(plan["host"]["fixed_bytes"].as_u64().unwrap_or(0)),
            Bytes(host[0]),
            Bytes(host[1]),
        );
        let is_noise = host[0].abs_diff(host[1]) <= NOISE;
        if host_off.abs() > OFF_MAX && !is_noise || devices_off.abs() > OFF_MAX {
            wrong.push(format!(
                "{case:?}: host {host:?}, off by {host_off:+.1} %; devices {devices_off:+.1} %"
            ));
        }
        done += 1;
    }
    println!("\n{done} combinations, {} beyond {OFF_MAX} %", wrong.len());
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(wrong.join("\n").into()),
    }
}

/// How far the first number is from the second, in percent.
fn off([planned, measured]: [u64; 2]) -> f64 {
    match (planned, measured) {
        (0, 0) => 0.0,
        _ => (planned as f64 - measured as f64) / measured.max(1) as f64 * 100.0,
    }
}

/// A process of its own for one plan or load.
fn run(what: &str, nth: usize, model: &Path) -> Result<Value, Failure> {
    let model = model.to_str().ok_or("a path in UTF-8")?;
    let mut command = Command::new(env::current_exe()?);
    let output = command
        .args(["--child", what, &nth.to_string(), model])
        .output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(format!("{what} of {:?}: {said}", CASES[nth]).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn child(args: &[String]) -> Result<(), Failure> {
    let [what, nth, model] = args else {
        return Err("a child is told what to do".into());
    };
    let case = CASES[nth.parse::<usize>()?];
    match case.0 {
        "cpu" => measured::<firebox::Cpu>(what, model, case),
        #[cfg(feature = "ndarray")]
        "ndarray" => measured::<firebox::NdArray>(what, model, case),
        #[cfg(feature = "vulkan")]
        "vulkan" => measured::<firebox::Vulkan>(what, model, case),
        other => Err(format!("{other} is not in this build").into()),
    }
}

fn measured<T: Target>(what: &str, model: &str, case: Case) -> Result<(), Failure> {
    let (_, _, quant, strategy, read, devices, tokens) = case;
    let folder = PathBuf::from(model);
    let (strategy, disk) = match strategy {
        "streaming from disk" => (Strategy::Streaming, true),
        other => (other.parse()?, false),
    };
    let read: Reading = read.parse()?;
    let mut config = LoadConfig::new(model)
        .quant(quant.parse()?)
        .strategy(strategy)
        .reading(read);
    if devices > 1 {
        config = config.devices(0..devices).context(1, tokens.max(1));
    }
    if disk {
        config = config.stream_from(StreamFrom::Disk(folder));
    }
    let loader = Loader::<T>::new(config)?;
    let pass = (tokens > 0).then_some(PassSize {
        batch: 1,
        length: tokens,
    });
    if what == "plan" {
        let plan = loader.plan::<CausalLm>()?;
        let memory = loader.memory::<CausalLm>(&plan, pass, None)?;
        println!("{}", serde_json::to_string(&memory)?);
        return Ok(());
    }
    let watch = Watch::start();
    let loaded = loader.load::<CausalLm>()?;
    let report = loaded.report;
    let mut peak = report.peak_host_bytes.ok_or("the system tells")?;
    let mut of_devices = serde_json::to_value(&report.devices)?;
    if let Some(PassSize { length, .. }) = pass {
        let ids: Vec<u32> = (0..length as u32).map(|nth| nth * 7 % 61).collect();
        let mut cache = loaded.model.cache().with_room(length);
        let next = loaded.model.step(&ids, &mut cache)?;
        next.try_into_data().map_err(|error| format!("{error:?}"))?;
        peak = peak.max(watch.stop());
        // Nobody counts what passes of a model take of a device in host memory.
        of_devices = json!([]);
    }
    let packed = module_bytes(&loaded.model);
    println!(
        "{}",
        json!({ "bytes_packed": packed, "peak_host_bytes": peak, "devices": of_devices })
    );
    Ok(())
}

/// Bytes of all tensors that a module holds, and of those that it streams.
fn module_bytes(model: &CausalLm) -> u64 {
    struct Held(u64);
    impl Held {
        fn add(&mut self, values: usize, dtype: DType) {
            self.0 += (values * dtype.size()) as u64;
        }
    }
    impl ModuleVisitor for Held {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let value = param.val();
            self.add(value.shape().num_elements(), value.dtype());
        }

        fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
            let value = param.val();
            self.add(value.shape().num_elements(), value.dtype());
        }
    }
    let mut held = Held(0);
    model.visit(&mut held);
    let linears = model.blocks.iter().flat_map(|block| block.linears());
    let matrices = linears.chain(&model.head).map(|linear| &linear.weight);
    let streamed = matrices.chain([&model.embedding.table]).map(streamed_bytes);
    held.0 + streamed.sum::<u64>()
}

fn streamed_bytes(matrix: &Matrix) -> u64 {
    match matrix {
        Matrix::Streamed(weight) => weight.bytes(),
        Matrix::Split(parts) => parts.iter().map(streamed_bytes).sum(),
        Matrix::Dense(_) | Matrix::Packed(_) => 0,
    }
}

/// The most anonymous memory of this process.
struct Watch {
    most: Arc<AtomicU64>,
    stopped: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl Watch {
    fn start() -> Self {
        let (most, stopped) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let shared = (Arc::clone(&most), Arc::clone(&stopped));
        let thread = std::thread::spawn(move || {
            let (most, stopped) = shared;
            while !stopped.load(Ordering::Relaxed) {
                most.fetch_max(anonymous().unwrap_or(0), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Self {
            most,
            stopped,
            thread,
        }
    }

    fn stop(self) -> u64 {
        self.stopped.store(true, Ordering::Relaxed);
        // A thread that has panicked has seen what it has seen.
        let _ = self.thread.join();
        self.most.load(Ordering::Relaxed)
    }
}

fn anonymous() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}
