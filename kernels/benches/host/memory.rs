//! What the same cores reach when they only read, and only write, memory that no cache holds.

use core::fmt;

use rayon::prelude::*;

use crate::measure::measure;

/// More than caches hold.
pub(crate) const BYTES: usize = 512 << 20;

/// Words of a job.
const JOB: usize = 1 << 16;

/// Bytes a second: what the cores can do.
pub(crate) struct Bandwidth {
    pub(crate) read: f64,
    pub(crate) write: f64,
}

impl fmt::Display for Bandwidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [read, write] = [self.read, self.write].map(|rate| rate / 1e9);
        write!(f, "reads {read:.1} GB/s, writes {write:.1} GB/s")
    }
}

pub(crate) fn bandwidth(pool: &rayon::ThreadPool) -> Bandwidth {
    let mut words = vec![1u64; BYTES / 8];
    let read = pool.install(|| {
        measure(&mut |_| {
            let sums = words.par_chunks(JOB).map(|words| {
                let mut lanes = [0u64; 64];
                for words in words.as_chunks::<64>().0 {
                    for (lane, word) in lanes.iter_mut().zip(words) {
                        *lane ^= word;
                    }
                }
                lanes.into_iter().fold(0, |a, b| a ^ b)
            });
            std::hint::black_box(sums.reduce(|| 0, |a, b| a ^ b));
        })
    });
    let write = pool.install(|| {
        measure(&mut |k| {
            let jobs = words.par_chunks_mut(JOB);
            jobs.for_each(|words| words.fill(std::hint::black_box(k as u64)));
        })
    });
    let alone = pool.current_num_threads() == 1;
    Bandwidth {
        read: BYTES as f64 / read.own.filter(|_| alone).unwrap_or(read.best),
        write: BYTES as f64 / write.own.filter(|_| alone).unwrap_or(write.best),
    }
}
