//! How fast weights are packed, given back and multiplied on the host, against how fast the same cores read and write
//! memory.
//!
//! ```console
//! $ cargo bench -p firebox-kernels --bench host -- pack
//! ```
//!
//! Every case runs on one thread and on all. Milliseconds are those of a run: the median and the best of many, and for
//! one thread those that it was on a processor. Rates are of the last of these, or else of the best.
//!
//! With `--count` every loop runs once, on a small weight, for a program that counts instructions.
//!
//! Words on the command line keep the cases whose name begins with one of them. Answers are checked before they are
//! timed; a wrong one is told and fails the benchmark.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark prints"
)]

#[path = "../../tests/common/mod.rs"]
mod common;
mod count;
mod measure;
mod memory;
mod pack;
mod product;
mod unpack;

use std::{env, process::ExitCode};

use measure::{Times, measure};
use memory::Bandwidth;

/// Something to time.
pub(crate) struct Case {
    /// What is done, to which format, in which shape.
    pub(crate) name: String,
    /// Bytes that one run reads and writes: packed words and scales, and floats.
    pub(crate) packed: usize,
    pub(crate) floats: usize,
    pub(crate) kind: Kind,
    /// Runs once; told how often it ran before, to take another copy of its weight each time.
    pub(crate) run: Box<dyn FnMut(usize) + Send>,
    /// What is wrong with the answer of a run, if anything.
    pub(crate) check: Box<dyn FnMut() -> Result<(), String> + Send>,
}

/// What is made of what.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// Words and scales, of floats.
    Pack,
    /// Floats, of words and scales.
    Unpack,
    /// Products, by so many multiplications and additions; floats are few.
    Multiply(f64),
}

/// The benchmarks, each of which makes its cases one at a time: they are large.
type Cases = fn(&Wanted, &mut dyn FnMut(Case));

/// Whether the command line asks for the case of this name.
pub(crate) type Wanted = dyn Fn(&str) -> bool;

const ALL: [Cases; 3] = [pack::cases, unpack::cases, product::cases];

fn main() -> ExitCode {
    let only: Vec<String> = env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    if only == ["--count"] {
        count::all();
        return ExitCode::SUCCESS;
    }
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if all > 1 { vec![1, all] } else { vec![1] };
    let pools: Vec<_> = threads
        .into_iter()
        .map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let pool = pool.build().expect("threads start");
            let memory = memory::bandwidth(&pool);
            println!("{threads} threads: {memory}");
            (threads, pool, memory)
        })
        .collect();

    println!(
        "\n| case | threads | ms | best | own | GB/s packed | GB/s of floats | of memory | GFLOP/s |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let wanted =
        move |name: &str| only.is_empty() || only.iter().any(|word| name.starts_with(word));
    let mut wrong = 0;
    for cases in ALL {
        cases(&wanted, &mut |mut case| {
            for (threads, pool, memory) in &pools {
                if let Err(error) = pool.install(&mut case.check) {
                    println!("| {} | {threads} | **{error}** |", case.name);
                    wrong += 1;
                    continue;
                }
                let times = pool.install(|| measure(&mut case.run));
                line(&case, *threads, memory, times);
            }
        });
    }
    ExitCode::from(u8::from(wrong > 0))
}

fn line(case: &Case, threads: usize, memory: &Bandwidth, times: Times) {
    let ms = |seconds: f64| format!("{:.3}", 1e3 * seconds);
    // On a machine that others work on too, its own time says what one thread can do.
    let own = times.own.filter(|_| threads == 1);
    let seconds = own.unwrap_or(times.best);
    let rate = |bytes: usize| format!("{:.2}", bytes as f64 / seconds / 1e9);
    let (read, written) = match case.kind {
        Kind::Pack => (case.floats, case.packed),
        Kind::Unpack => (case.packed, case.floats),
        Kind::Multiply(_) => (case.packed, 0),
    };
    let ideal = read as f64 / memory.read + written as f64 / memory.write;
    let (floats, flops) = match case.kind {
        Kind::Multiply(flops) => (String::new(), format!("{:.1}", flops / seconds / 1e9)),
        Kind::Pack | Kind::Unpack => (rate(case.floats), String::new()),
    };
    println!(
        "| {} | {threads} | {} | {} | {} | {} | {floats} | {:.0} % | {flops} |",
        case.name,
        ms(times.median),
        ms(times.best),
        own.map(ms).unwrap_or_default(),
        rate(case.packed),
        100.0 * ideal / seconds,
    );
}
