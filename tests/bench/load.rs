//! How fast a checkpoint loads, by one worker and by all, and how much memory that takes, against the plain read rate of
//! the same files in the same rounds.
//!
//! ```console
//! $ cargo bench --bench load              # a synthetic Llama-3-8B of 2 GiB, written once to target/bench
//! $ cargo bench --bench load -- DIR 5     # another checkpoint, five rounds
//! $ cargo bench --bench load -- cold      # the page cache is emptied of it before every load (Linux)
//! ```
//!
//! Every load is a process of its own, so that its peak is its own. The answer is checked: one weight is read
//! again, packed whole and compared to the bit. The bound on memory is asserted, times are only printed.

#![allow(clippy::print_stdout, reason = "a benchmark prints")]

use std::{
    env, fs,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Instant,
};

use firebox::{
    Cpu, LoadConfig, Loader, Workers,
    config::Bytes,
    model::{CausalLm, Matrix},
    plan::{Action, Stored},
    quant::{QuantSpec, kernels::packer::pack_whole},
    source::{Local, Source},
    synth::{self, Like},
};

type Failure = Box<dyn std::error::Error>;

/// Quantization, type of what stays plain, way to read.
const CASES: [[&str; 3]; 14] = [
    ["none", "bf16", "buffered"],
    ["none", "bf16", "auto"],
    ["none", "f32", "auto"],
    ["nf4", "bf16", "buffered"],
    ["nf4", "bf16", "auto"],
    ["nf4:nested", "bf16", "auto"],
    ["fp4", "bf16", "auto"],
    ["fp8:e4m3,scale=tensor", "bf16", "auto"],
    ["fp8:e4m3,scale=channel", "bf16", "auto"],
    ["fp8:e4m3,scale=block", "bf16", "auto"],
    ["fp8:e5m2,scale=tensor", "bf16", "auto"],
    ["mlx", "bf16", "auto"],
    ["wna16", "bf16", "auto"],
    ["int8", "bf16", "auto"],
];

/// What a load may hold besides the finished weights.
const OVERHEAD_MAX: u64 = 256 << 20;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = env::args().skip(1).filter(|arg| arg != "--bench").collect();
    match args.first().map(String::as_str) {
        Some("--child") => child(&args[1..]),
        _ => parent(args),
    }
}

fn parent(mut args: Vec<String>) -> Result<(), Failure> {
    let cold = args.iter().any(|arg| arg == "cold");
    args.retain(|arg| arg != "cold");
    let model = match args.first() {
        Some(model) => PathBuf::from(model),
        None => synthetic()?,
    };
    let rounds: usize = args.get(1).map_or(Ok(3), |rounds| rounds.parse())?;
    let all = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let workers: &[usize] = if all > 1 && !cold { &[1, all] } else { &[all] };
    let prepare = || if cold { forget(&model) } else { Ok(()) };

    // The first read may come from the disk even where nobody asked for that.
    read_rate(&model)?;
    let mut plain = Vec::new();
    let mut rates = vec![vec![Vec::new(); workers.len()]; CASES.len()];
    let mut memory = vec![[0; 2]; CASES.len()];
    for _ in 0..rounds {
        prepare()?;
        plain.push(read_rate(&model)?);
        for (nth, case) in CASES.iter().enumerate() {
            for (count, rates) in workers.iter().zip(&mut rates[nth]) {
                prepare()?;
                let (rate, [kept, peak]) = load(&model, case, *count)?;
                rates.push(rate);
                memory[nth] = [kept, peak.max(memory[nth][1])];
                assert!(
                    peak <= kept + OVERHEAD_MAX,
                    "{case:?}: peak {peak}, finished weights {kept}, {OVERHEAD_MAX} allowed besides"
                );
            }
        }
    }

    let plain = median(plain);
    let state = if cold { "disk" } else { "page cache" };
    println!(
        "{}: plain reads {:.2} GB/s ({state})\n",
        model.display(),
        plain / 1e9
    );
    let counts: Vec<String> = workers
        .iter()
        .map(|count| format!("{count} workers"))
        .collect();
    println!(
        "| quant | plain type | read | {} | of plain reads | finished | peak - finished |",
        counts.join(" | ")
    );
    println!("|---|---|---|{}---|---|---|", "---|".repeat(counts.len()));
    for ((case, rates), [kept, peak]) in CASES.iter().zip(rates).zip(memory) {
        let rates: Vec<f64> = rates.into_iter().map(median).collect();
        let best = rates.iter().copied().fold(0.0, f64::max);
        let said: Vec<String> = rates
            .iter()
            .map(|rate| format!("{:.2} GB/s", rate / 1e9))
            .collect();
        println!(
            "| {} | {} | {:.0} % | {} | {} |",
            case.join(" | "),
            said.join(" | "),
            100.0 * best / plain,
            Bytes(kept),
            Bytes(peak.saturating_sub(kept)),
        );
    }
    Ok(())
}

/// Source bytes a second; bytes of the finished weights, and at most.
fn load(model: &Path, case: &[&str; 3], workers: usize) -> Result<(f64, [u64; 2]), Failure> {
    let output = Command::new(env::current_exe()?)
        .args(["--child", &model.to_string_lossy()])
        .args(case)
        .arg(workers.to_string())
        .output()?;
    if !output.status.success() {
        return Err(format!("{case:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let number = |field: &str| report[field].as_f64().ok_or(format!("no {field}"));
    let rate = number("bytes_source")? / number("seconds")?;
    let bytes = [
        number("bytes_packed")? as u64,
        number("peak_host_bytes")? as u64,
    ];
    Ok((rate, bytes))
}

/// Loads, checks one weight, prints the report.
fn child(args: &[String]) -> Result<(), Failure> {
    let [model, quant, dtype, reading, workers] = args else {
        return Err("a model, a case and a number of workers".into());
    };
    let config = LoadConfig::new(model)
        .quant(quant.parse()?)
        .dtype(dtype.parse()?)
        .reading(reading.parse()?)
        .workers(Workers::Count(workers.parse()?));
    let loader = Loader::<Cpu>::new(config)?;
    let loaded = loader.load::<CausalLm>()?;
    check(&loader, &loaded.model, &quant.parse()?)?;
    println!("{}", serde_json::to_string(&loaded.report)?);
    Ok(())
}

/// The last layer's down projection: far into the stream, and the widest rows.
fn check(loader: &Loader<Cpu>, model: &CausalLm, quant: &QuantSpec) -> Result<(), Failure> {
    let last = model.blocks.len() - 1;
    let name = format!("model.layers.{last}.mlp.down_proj.weight");
    let plan = loader.plan::<CausalLm>()?;
    let step = plan
        .steps
        .iter()
        .find(|step| step.slot.name == name)
        .ok_or("no such weight")?;
    let shape: [usize; 2] = step.slot.shape[..].try_into()?;
    let (Stored::Plain(float), Some(part)) = (&step.stored, step.whole()) else {
        return Err("the benchmark's checkpoint is plain".into());
    };
    let float = *float;
    let mut bytes = vec![0; step.bytes_source() as usize];
    loader
        .checkpoint()
        .source()
        .read_at(&part.file, part.range.start, &mut bytes)?;

    match (
        &model.blocks[last].linears()[6].weight,
        quant.method(),
        &step.action,
    ) {
        (Matrix::Dense(weight), None, Action::Dense(_)) => {
            let mut expected = vec![0.0; shape[0] * shape[1]];
            float.widen(&bytes, &mut expected);
            let found = weight
                .val()
                .into_data()
                .convert::<f32>()
                .try_into_vec::<f32>()?;
            assert!(found == expected, "{name} is not what the file says");
        }
        (Matrix::Packed(weight), Some(method), Action::Pack(..)) => {
            let expected = pack_whole(method.packer(shape, float)?, &bytes);
            let words = |tensor: burn::tensor::Tensor<1, burn::tensor::Int>| {
                tensor.into_data().try_into_vec::<u32>()
            };
            assert!(
                words(weight.words.val())? == expected.words,
                "{name}: other codes"
            );
            assert!(
                words(weight.scales.val())? == expected.scales,
                "{name}: other scales"
            );
        }
        _ => return Err(format!("{name} is not as planned").into()),
    }
    Ok(())
}

fn synthetic() -> Result<PathBuf, Failure> {
    let out = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench/llama-3-8b-2GiB");
    if !out.join("model.safetensors.index.json").exists() {
        fs::create_dir_all(out.parent().ok_or("no parent")?)?;
        synth::write(
            &synth::Options::new(Like::Llama3_8b, 2 << 30, &out),
            &mut |_, _| {},
        )?;
    }
    Ok(out)
}

/// Bytes a second of reading every weights file once, with the pipeline's tile size.
fn read_rate(model: &Path) -> Result<f64, Failure> {
    let source = Local::open(model)?;
    let checkpoint = firebox::source::Checkpoint::open(std::sync::Arc::new(Local::open(model)?))?;
    let mut buffer = vec![0; 4 << 20];
    let started = Instant::now();
    for file in checkpoint.files() {
        let mut offset = 0;
        while offset < file.bytes {
            let len = buffer.len().min((file.bytes - offset) as usize);
            source.read_at(&file.name, offset, &mut buffer[..len])?;
            offset += len as u64;
        }
    }
    Ok(checkpoint.total_bytes() as f64 / started.elapsed().as_secs_f64())
}

/// Takes the weights out of the page cache.
#[cfg(target_os = "linux")]
fn forget(model: &Path) -> Result<(), Failure> {
    use rustix::fs::{Advice, fadvise};
    for entry in fs::read_dir(model)? {
        let file = fs::File::open(entry?.path())?;
        file.sync_all()?;
        fadvise(&file, 0, None, Advice::DontNeed)?;
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn forget(_: &Path) -> Result<(), Failure> {
    Err("the page cache is emptied on Linux only".into())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
