//! Timing, and the table.

use std::{hint::black_box, process::ExitCode, time::Instant};

use rayon::{ThreadPool, ThreadPoolBuilder, prelude::*};

/// Samples, of which the median is taken.
const SAMPLES: usize = 7;

/// Seconds after which there are enough samples of a slow case.
const ENOUGH: f64 = 4.0;

/// Prints a row for each case.
pub(crate) struct Bench {
    only: Vec<String>,
    /// One worker, and as many as there are cores.
    pools: [ThreadPool; 2],
    /// Bytes a second that either reads from memory.
    reads: [f64; 2],
    wrong: usize,
}

impl Bench {
    pub(crate) fn new(only: Vec<String>) -> Self {
        let pool = |threads| ThreadPoolBuilder::new().num_threads(threads).build();
        let pools = [1, 0].map(|threads| pool(threads).expect("threads start"));
        let reads = pools.each_ref().map(read_rate);
        let threads = pools[1].current_num_threads();
        println!(
            "Reads of memory: {:.1} GB/s on one thread, {:.1} GB/s on {threads}.\n",
            reads[0] / 1e9,
            reads[1] / 1e9
        );
        println!("| case | GB/s, 1 thread | of reads | GB/s, {threads} threads | of reads |");
        println!("|---|---|---|---|---|");
        Self {
            only,
            pools,
            reads,
            wrong: 0,
        }
    }

    /// Times `run`, which reads `bytes` and says whether its answer is right, unless the command line leaves it out.
    pub(crate) fn case(&mut self, name: &str, bytes: usize, mut run: impl FnMut() -> bool + Send) {
        if !self.only.is_empty() && !self.only.iter().any(|only| name.contains(only.as_str())) {
            return;
        }
        if !self.pools[1].install(&mut run) {
            eprintln!("wrong: {name}");
            self.wrong += 1;
            return;
        }
        let rates = self.pools.each_ref().map(|pool| {
            let seconds = median(|| {
                let started = Instant::now();
                pool.install(|| black_box(run()));
                started.elapsed().as_secs_f64()
            });
            bytes as f64 / seconds
        });
        let [one, all] = [0, 1].map(|k| {
            let share = 100.0 * rates[k] / self.reads[k];
            format!("{:.2} | {share:.0} %", rates[k] / 1e9)
        });
        println!("| {name} | {one} | {all} |");
    }

    pub(crate) fn finish(self) -> ExitCode {
        if self.wrong == 0 {
            ExitCode::SUCCESS
        } else {
            eprintln!("{} wrong", self.wrong);
            ExitCode::FAILURE
        }
    }
}

fn median(mut sample: impl FnMut() -> f64) -> f64 {
    let mut samples = Vec::new();
    while samples.len() < SAMPLES && samples.iter().sum::<f64>() < ENOUGH {
        samples.push(sample());
    }
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

/// Bytes a second of a sum over more than the caches hold.
fn read_rate(pool: &ThreadPool) -> f64 {
    const WORDS: usize = 64 << 20;
    let words = vec![1u64; WORDS];
    let seconds = median(|| {
        let started = Instant::now();
        let sum: u64 = pool.install(|| {
            words
                .par_chunks(1 << 16)
                .map(|words| words.iter().sum::<u64>())
                .sum()
        });
        assert_eq!(sum, WORDS as u64);
        started.elapsed().as_secs_f64()
    });
    (8 * WORDS) as f64 / seconds
}
