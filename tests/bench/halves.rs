//! Dense weights on the CPU: halves as they are stored, beside the same widened to `f32`, in turns.
//!
//! ```console
//! $ cargo bench --bench halves            # a synthetic Llama-3-8B of 2 GiB, written once to target/bench
//! $ cargo bench --bench halves -- DIR 5   # another checkpoint, five rounds
//! ```
//!
//! Every load is a process of its own, so that its peak is its own. Tokens a second are compared with what reading all
//! matrices once a token allows (all but an embedding that is no head): the same cores read as many bytes that no cache
//! holds, before and after. Where other work keeps the machine busy, processor seconds of all threads say more than the
//! clock's. Times are only printed; memory is asserted.

#![allow(clippy::print_stdout, reason = "a benchmark prints")]

use std::{
    env, fs,
    hint::black_box,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Instant,
};

use firebox::{
    Cpu, LoadConfig, Loader,
    config::Bytes,
    model::{CausalLm, NextToken, Role},
    synth::{self, Like},
};
use rayon::prelude::*;

type Failure = Box<dyn std::error::Error>;

/// Types that are asked for: none, and that of before.
const CASES: [&str; 2] = ["stored", "f32"];

/// Tokens of the prompt, and after it.
const PROMPT: usize = 512;
const TOKENS: usize = 24;

/// What a load may hold besides the finished weights.
const OVERHEAD_MAX: u64 = 64 << 20;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = env::args().skip(1).filter(|arg| arg != "--bench").collect();
    match args.first().map(String::as_str) {
        Some("--child") => child(&args[1..]),
        _ => parent(&args),
    }
}

fn parent(args: &[String]) -> Result<(), Failure> {
    let model = match args.first() {
        Some(model) => PathBuf::from(model),
        None => synthetic()?,
    };
    let rounds: usize = args.get(1).map_or(Ok(5), |rounds| rounds.parse())?;
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    println!("{}, {threads} threads, {rounds} rounds\n", model.display());
    println!(
        "| weights | load, s | finished | peak, anonymous | prompt of {PROMPT}, s | on cores | tokens/s | a token on cores, s | reads, GB/s | of reads |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    let mut all = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (case, results) in CASES.iter().zip(&mut all) {
            let found = run(&model, case)?;
            line(case, &found);
            results.push(found);
        }
    }
    for (case, results) in CASES.iter().zip(&all) {
        let medians = core::array::from_fn(|k| median(results.iter().map(|of| of[k]).collect()));
        line(&format!("**{case}, medians**"), &medians);
    }
    Ok(())
}

/// Seconds of the load, bytes finished and at most, seconds of the prompt by the clock and on cores, tokens a second,
/// seconds of one on cores, bytes read a second, bytes of a token.
type Found = [f64; 9];

fn line(
    case: &str,
    [
        load,
        kept,
        peak,
        prompt,
        prompt_cores,
        tokens,
        token_cores,
        reads,
        bytes,
    ]: &Found,
) {
    println!(
        "| {case} | {load:.3} | {} | {} | {prompt:.2} | {prompt_cores:.2} | {tokens:.2} | {token_cores:.3} | {:.1} | {:.0} % |",
        Bytes(*kept as u64),
        Bytes(*peak as u64),
        reads / 1e9,
        100.0 * tokens * bytes / reads,
    );
}

fn run(model: &Path, case: &str) -> Result<Found, Failure> {
    let output = Command::new(env::current_exe()?)
        .args(["--child", &model.to_string_lossy(), case])
        .output()?;
    if !output.status.success() {
        return Err(format!("{case}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let numbers = String::from_utf8(output.stdout)?;
    let numbers: Result<Vec<f64>, _> = numbers.split_whitespace().map(str::parse).collect();
    numbers?
        .try_into()
        .map_err(|found| format!("{case}: {found:?}").into())
}

fn child(args: &[String]) -> Result<(), Failure> {
    let [model, case] = args else {
        return Err("a model and a case".into());
    };
    let config = LoadConfig::new(model);
    let config = match case.as_str() {
        "stored" => config,
        dtype => config.dtype(dtype.parse()?),
    };
    let loaded = Loader::<Cpu>::new(config)?.load::<CausalLm>()?;
    let (report, model) = (loaded.report, loaded.model);
    let peak = report.peak_host_bytes.unwrap_or(0);
    let kept = match case.as_str() {
        // All but the norms is the file's.
        "stored"
            if report
                .probe
                .is_some_and(|probe| probe.chosen.to_string() == "mapped") =>
        {
            0
        }
        _ => report.bytes_packed,
    };
    assert!(
        peak <= kept + OVERHEAD_MAX,
        "peak {peak}, {kept} finished, {OVERHEAD_MAX} allowed besides"
    );
    let tied = model.head.is_none();
    let multiplied = report.per_tensor.iter();
    let multiplied = multiplied.filter(|tensor| tied || tensor.role != Role::Embedding);
    let bytes: u64 = multiplied.map(|tensor| tensor.bytes_packed).sum();

    let vocabulary = model.vocabulary() as u32;
    let ids: Vec<u32> = (0..PROMPT as u32).map(|k| k * 7919 % vocabulary).collect();
    let mut cache = model.cache();
    // Once, so that the pages of a map are there: 512 tokens are far more work than faults.
    let warm: Vec<f32> = values(model.step(&ids[..8], &mut model.cache())?)?;
    assert!(warm.iter().all(|logit| logit.is_finite()));
    let (started, cores) = (Instant::now(), on_cores());
    black_box(values(model.step(&ids, &mut cache)?)?);
    let (prompt, prompt_cores) = (started.elapsed().as_secs_f64(), on_cores() - cores);

    let memory = vec![1_u64; (1 << 30) / 8];
    let before = reads(&memory);
    let (started, cores) = (Instant::now(), on_cores());
    for id in &ids[..TOKENS] {
        black_box(values(model.step(&[*id], &mut cache)?)?);
    }
    let tokens = TOKENS as f64 / started.elapsed().as_secs_f64();
    let token_cores = (on_cores() - cores) / TOKENS as f64;
    let reads = (before + reads(&memory)) / 2.0;
    println!(
        "{} {} {peak} {prompt} {prompt_cores} {tokens} {token_cores} {reads} {bytes}",
        report.seconds, report.bytes_packed
    );
    Ok(())
}

/// Seconds that all threads of this process were on a processor; NaN where the system does not tell.
fn on_cores() -> f64 {
    // The fields after the name, which may hold anything: utime and stime are the 12th and 13th of them, in hundredths.
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    let ticks = fields.split(' ').skip(11).take(2).map(str::parse::<f64>);
    ticks.sum::<Result<f64, _>>().map_or(f64::NAN, |ticks| {
        if stat.is_empty() {
            f64::NAN
        } else {
            ticks / 100.0
        }
    })
}

fn values(logits: burn::tensor::Tensor<1>) -> Result<Vec<f32>, Failure> {
    logits
        .into_data()
        .convert_dtype(burn::tensor::DType::F32)
        .try_into_vec()
        .map_err(|error| format!("{error:?}").into())
}

/// Bytes a second that all cores read, the median of five.
fn reads(memory: &[u64]) -> f64 {
    let rate = |_| {
        let started = Instant::now();
        let sums = memory.par_chunks(1 << 16).map(|words| {
            let mut lanes = [0_u64; 64];
            for words in words.as_chunks::<64>().0 {
                for (lane, word) in lanes.iter_mut().zip(words) {
                    *lane ^= word;
                }
            }
            lanes.into_iter().fold(0, |a, b| a ^ b)
        });
        black_box(sums.reduce(|| 0, |a, b| a ^ b));
        size_of_val(memory) as f64 / started.elapsed().as_secs_f64()
    };
    median((0..5).map(rate).collect())
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

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
