//! How long work takes on a device.

use std::time::Instant;

use cubecl::{client::Client, future::block_on, profile::TimingMethod};

/// Seconds of a call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// What the device says it took, in a queue that never was empty: no launch is in it. None where a device
    /// has no clock of its own.
    pub(crate) device: Option<f64>,
    /// What a program sees that calls one after another and waits at the end.
    pub(crate) call: f64,
}

impl Times {
    /// The device's time, or else the program's.
    pub(crate) fn best(self) -> f64 {
        self.device.unwrap_or(self.call)
    }
}

/// How to measure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// Samples, of which the median is taken.
    pub(crate) samples: usize,
    /// Seconds that a sample should take at least.
    pub(crate) sample: f64,
    /// Calls of a sample at most.
    pub(crate) calls: usize,
}

/// Waits for everything on the device.
pub(crate) fn sync(client: &Client) {
    block_on(client.sync()).expect("the device works");
}

/// Times `run`, which is told how often it ran. `busy` gives the device work for longer than it takes to queue
/// a sample.
pub(crate) fn measure(
    client: &Client,
    effort: Effort,
    busy: &dyn Fn(),
    run: &mut dyn FnMut(usize),
) -> Times {
    let mut count = 0;
    let mut some = |calls: usize| {
        for _ in 0..calls {
            run(count);
            count += 1;
        }
    };
    // The first call compiles, the second may allocate.
    some(2);
    sync(client);
    let started = Instant::now();
    some(1);
    sync(client);
    let one = started.elapsed().as_secs_f64();
    let calls = ((effort.sample / one).ceil() as usize).clamp(1, effort.calls);

    let call = (0..effort.samples).map(|_| {
        let started = Instant::now();
        some(calls);
        sync(client);
        started.elapsed().as_secs_f64() / calls as f64
    });
    let call = median(call.collect());
    let has_clock = client.properties().timing_method == TimingMethod::Device;
    let device = (0..effort.samples).map(|_| {
        busy();
        let window = client.profile_start().ok()?;
        some(calls);
        let duration = client.profile_end(window).ok()?;
        if duration.timing_method() != TimingMethod::Device {
            return None;
        }
        let ticks = block_on(duration.resolve())?;
        Some(ticks.duration().as_secs_f64() / calls as f64)
    });
    let device = if has_clock {
        device.collect::<Option<Vec<_>>>().map(median)
    } else {
        None
    };
    sync(client);
    Times { device, call }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
