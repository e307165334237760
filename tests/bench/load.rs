//! How fast a checkpoint loads, and how much memory that takes, against the plain read rate of the same files.
//!
//! ```console
//! $ cargo bench --bench load            # a synthetic Llama-3-8B of 2 GiB, written once to target/bench
//! $ cargo bench --bench load -- DIR 5   # another checkpoint, five runs each
//! ```
//!
//! Every load is a process of its own, so that its peak is its own. The answer is checked: one weight is read
//! again, packed whole and compared to the bit. The bound on memory is asserted, times are only printed.

#![allow(clippy::print_stdout, reason = "a benchmark prints")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use firebox::{
    Cpu, LoadConfig, Loader,
    config::Bytes,
    model::{Matrix, llama::Llama},
    plan::{Action, Stored},
    quant::{QuantSpec, kernels::packer::pack_whole},
    source::{Local, Source},
    synth::{self, Like},
};

type Failure = Box<dyn std::error::Error>;

const QUANTS: [&str; 10] = [
    "none",
    "nf4",
    "nf4:nested",
    "fp4",
    "fp8:e4m3,scale=tensor",
    "fp8:e4m3,scale=channel",
    "fp8:e4m3,scale=block",
    "fp8:e5m2,scale=tensor",
    "mlx",
    "int8",
];

/// What a load may hold besides the finished weights.
const OVERHEAD_MAX: u64 = 512 << 20;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = env::args().skip(1).filter(|arg| arg != "--bench").collect();
    match args.first().map(String::as_str) {
        Some("--child") => child(&args[1], &args[2]),
        _ => parent(&args),
    }
}

fn parent(args: &[String]) -> Result<(), Failure> {
    let model = match args.first() {
        Some(model) => PathBuf::from(model),
        None => synthetic()?,
    };
    let runs: usize = args.get(1).map_or(Ok(3), |runs| runs.parse())?;

    let mut plain: Vec<f64> = (0..runs + 1)
        .map(|_| read_rate(&model))
        .collect::<Result<_, _>>()?;
    // The first run may have come from the disk.
    plain.remove(0);
    let plain = median(plain);
    println!(
        "{}: plain reads {:.2} GB/s (page cache)\n",
        model.display(),
        plain / 1e9
    );
    println!("| quant | load | of plain reads | finished | peak | peak - finished |");
    println!("|---|---|---|---|---|---|");
    for quant in QUANTS {
        let mut rates = Vec::new();
        let (mut peak, mut kept) = (0, 0);
        for _ in 0..runs {
            let output = Command::new(env::current_exe()?)
                .args(["--child", &model.to_string_lossy(), quant])
                .output()?;
            if !output.status.success() {
                return Err(format!("{quant}: {}", String::from_utf8_lossy(&output.stderr)).into());
            }
            let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
            let number = |field: &str| report[field].as_f64().ok_or(format!("no {field}"));
            rates.push(number("bytes_source")? / number("seconds")?);
            peak = peak.max(number("peak_host_bytes")? as u64);
            kept = number("bytes_packed")? as u64;
        }
        assert!(
            peak <= kept + OVERHEAD_MAX,
            "{quant}: peak {peak}, finished weights {kept}, {OVERHEAD_MAX} allowed besides"
        );
        let rate = median(rates);
        println!(
            "| {quant} | {:.2} GB/s | {:.0} % | {} | {} | {} |",
            rate / 1e9,
            100.0 * rate / plain,
            Bytes(kept),
            Bytes(peak),
            Bytes(peak.saturating_sub(kept)),
        );
    }
    Ok(())
}

/// Loads, checks one weight, prints the report.
fn child(model: &str, quant: &str) -> Result<(), Failure> {
    let loader = Loader::<Cpu>::new(LoadConfig::new(model).quant(quant.parse()?))?;
    let loaded = loader.load::<Llama>()?;
    check(&loader, &loaded.model, &quant.parse()?)?;
    println!("{}", serde_json::to_string(&loaded.report)?);
    Ok(())
}

/// The last layer's down projection: far into the stream, and the widest rows.
fn check(loader: &Loader<Cpu>, model: &Llama, quant: &QuantSpec) -> Result<(), Failure> {
    let last = model.blocks.len() - 1;
    let name = format!("model.layers.{last}.mlp.down_proj.weight");
    let plan = loader.plan::<Llama>()?;
    let step = plan
        .steps
        .iter()
        .find(|step| step.slot.name == name)
        .ok_or("no such weight")?;
    let shape: [usize; 2] = step.slot.shape[..].try_into()?;
    let (Stored::Plain(float), [part]) = (&step.source, &step.parts[..]) else {
        return Err("the benchmark's checkpoint is plain".into());
    };
    let float = *float;
    let mut bytes = vec![0; step.bytes_source() as usize];
    loader
        .checkpoint()
        .source()
        .read_at(&part.file, part.range.start, &mut bytes)?;

    match (
        &model.blocks[last].mlp.down_proj.weight,
        quant.method(),
        &step.action,
    ) {
        (Matrix::Dense(weight), None, Action::Dense(_)) => {
            let mut expected = vec![0.0; shape[0] * shape[1]];
            float.widen(&bytes, &mut expected);
            let found = weight.val().into_data().try_into_vec::<f32>()?;
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

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
