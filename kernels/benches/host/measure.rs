//! How long work takes.

use std::time::Instant;

/// Samples: many and short, so that most of them run undisturbed on a machine that is shared.
const SAMPLES: usize = 25;

/// Seconds that a sample takes at least.
const SAMPLE: f64 = 0.004;

/// Seconds of one run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) median: f64,
    pub(crate) best: f64,
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
    // The first runs touch fresh memory.
    some(2);
    let calls = (SAMPLE / some(1)).ceil().clamp(1.0, 1000.0) as usize;
    let mut seconds = [(); SAMPLES].map(|()| some(calls));
    seconds.sort_by(f64::total_cmp);
    Times {
        median: seconds[SAMPLES / 2],
        best: seconds[0],
    }
}
