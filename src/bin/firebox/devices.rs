//! `firebox devices`: the devices of this machine and their memory.

use std::{num::NonZeroU64, time::Duration};

use clap::Args;
use firebox::{
    Target,
    target::{MemoryReading, MemoryTracker},
};
use serde::Serialize;

use crate::{
    Failure, OnTarget, output,
    target::{TargetName, TargetParser},
};

#[derive(Debug, Args)]
pub(crate) struct DevicesCommand {
    /// Whose devices
    #[arg(long, value_parser = TargetParser, default_value_t)]
    pub(crate) target: TargetName,

    /// Look again every so many seconds; 1 if no number is given
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "1", value_parser = seconds)]
    watch: Option<Duration>,

    /// End after so many looks
    #[arg(long, value_name = "N", requires = "watch")]
    times: Option<NonZeroU64>,

    /// Print JSON; with --watch an object a line
    #[arg(long)]
    json: bool,
}

/// One look.
#[derive(Serialize)]
struct Look<'r> {
    host: &'r MemoryReading,
    devices: &'r [MemoryReading],
}

impl OnTarget for DevicesCommand {
    fn run<T: Target>(self) -> Result<(), Failure> {
        let mut tracker = MemoryTracker::<T>::all()?;
        let mut looks = 0;
        loop {
            let readings = tracker.look();
            self.print(&readings)?;
            looks += 1;
            match self.watch {
                Some(pause) if self.times.is_none_or(|times| looks < times.get()) => {
                    std::thread::sleep(pause);
                }
                _ => return Ok(()),
            }
        }
    }
}

impl DevicesCommand {
    fn print(&self, readings: &[MemoryReading]) -> Result<(), Failure> {
        let (host, devices) = readings.split_first().ok_or("the host has no memory")?;
        match (self.json, self.watch) {
            (true, None) => output::json(&Look { host, devices }),
            (true, Some(_)) => output::line(serde_json::to_string(&Look { host, devices })?),
            (false, _) => readings.iter().try_for_each(output::line),
        }
    }
}

fn seconds(text: &str) -> Result<Duration, &'static str> {
    let seconds: f64 = text.parse().map_err(|_| "write a number of seconds")?;
    match (0.001..=86_400.0).contains(&seconds) {
        true => Ok(Duration::from_secs_f64(seconds)),
        false => Err("write a number of seconds from 0.001 to 86400"),
    }
}
