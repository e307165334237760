//! Timing, and the table.

use std::{
    fs,
    hint::black_box,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

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
            bytes as f64
                / median(|| {
                    seconds(pool, || {
                        assert!(black_box(run()), "right once, and wrong now");
                    })
                })
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
        seconds(pool, || {
            let sums = words
                .par_chunks(1 << 16)
                .map(|words| words.iter().sum::<u64>());
            assert_eq!(sums.sum::<u64>(), WORDS as u64);
        })
    });
    (8 * WORDS) as f64 / seconds
}

/// Seconds that `run` takes in a pool. One worker's are those it was on a core for, where the system tells: others may
/// want the core too.
fn seconds(pool: &ThreadPool, run: impl FnMut() + Send) -> f64 {
    let mut run = run;
    pool.install(|| {
        // The system counts a thread's time when it leaves the core.
        thread::sleep(Duration::from_millis(1));
        let on_core = (pool.current_num_threads() == 1).then(on_core).flatten();
        let started = Instant::now();
        run();
        let elapsed = started.elapsed().as_secs_f64();
        on_core.map_or(elapsed, seconds_since)
    })
}

fn seconds_since(before: f64) -> f64 {
    thread::sleep(Duration::from_millis(1));
    on_core().map_or(f64::NAN, |now| now - before)
}

/// Seconds that this thread has been on a core, where the system is Linux.
fn on_core() -> Option<f64> {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanoseconds: f64 = stat.split(' ').next()?.parse().ok()?;
    Some(nanoseconds / 1e9)
}
