//! How long work takes.

use std::thread;
use std::time::{Duration, Instant};

/// Samples: many and short, so that most of them run undisturbed on a machine that is shared.
const SAMPLES: usize = 25;

/// Seconds after which there are enough samples of slow work.
const ENOUGH: f64 = 6.0;

/// Seconds that a sample takes at least.
const SAMPLE: f64 = 0.004;

/// Seconds of one run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) median: f64,
    pub(crate) best: f64,
    /// Of this thread on a processor, on average, where the system tells: what the run would take alone. Means nothing
    /// where other threads work too.
    pub(crate) own: Option<f64>,
}

pub(crate) fn measure(run: &mut dyn FnMut(usize)) -> Times {
    let mut count = 0;
    let mut some = |calls: usize| {
        let started = Instant::now();
        for _ in 0..calls {
            run(count);
            count += 1;
        }
        started.elapsed().as_secs_f64() / calls as f64
    };
    // Memory was touched when the answer was checked.
    let calls = (SAMPLE / some(1)).ceil().clamp(1.0, 1000.0) as usize;
    let started = on_processor();
    let mut seconds = Vec::new();
    while seconds.len() < SAMPLES && seconds.iter().sum::<f64>() * (calls as f64) < ENOUGH {
        seconds.push(some(calls));
    }
    let own = on_processor().zip(started);
    seconds.sort_by(f64::total_cmp);
    Times {
        median: seconds[seconds.len() / 2],
        best: seconds[0],
        own: own.map(|(end, start)| (end - start) / (calls * seconds.len()) as f64),
    }
}

/// Seconds that this thread has been on a processor, as Linux counts them.
fn on_processor() -> Option<f64> {
    // It counts a thread's time when the thread leaves the processor.
    thread::sleep(Duration::from_millis(1));
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanoseconds: f64 = stat.split(' ').next()?.parse().ok()?;
    Some(nanoseconds / 1e9)
}
