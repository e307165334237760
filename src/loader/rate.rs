//! How fast the source of a model is read here: ranges of its weights are read for a second, and thrown away.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::{Loader, Planner, engine::Engine};
use crate::{error::Error, plan::Plan, source::SourceExt, target::Target};

/// How fast weights were read, and how long all of them would take.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ReadRate {
    /// Bytes a second.
    pub bytes_per_second: f64,
    /// Bytes that were read to find out.
    pub bytes: u64,
    /// Seconds that it took.
    pub seconds: f64,
    /// Seconds that reading all weights of the plan takes at this rate. Converting overlaps with it and may take longer.
    pub seconds_read: f64,
}

/// Bytes of one read.
const READ: usize = 4 << 20;

/// Ranges that reads are spread over.
const SPREAD: u64 = 64;

impl<T: Target> Loader<T> {
    /// Reads weights of a plan for `time` at most, each byte once at most, and keeps none of them: how fast its source is here. `None`
    /// for a model of the hub, which would be downloaded, and for one without weights.
    ///
    /// # Errors
    ///
    /// [`Error::Source`].
    pub fn read_rate(&self, plan: &Plan, time: Duration) -> Result<Option<ReadRate>, Error> {
        self.engine.read_rate(plan, time)
    }
}

impl Planner {
    /// As [`Loader::read_rate`].
    ///
    /// # Errors
    ///
    /// [`Error::Source`].
    pub fn read_rate(&self, plan: &Plan, time: Duration) -> Result<Option<ReadRate>, Error> {
        self.engine.read_rate(plan, time)
    }
}

impl Engine {
    fn read_rate(&self, plan: &Plan, time: Duration) -> Result<Option<ReadRate>, Error> {
        let source = self.checkpoint().source();
        let total = plan.totals().bytes_source;
        if time.is_zero() || total == 0 || source.version()?.is_some() {
            return Ok(None);
        }
        // Pieces of all weights, one after another.
        let pieces = || {
            let reads = plan.steps.iter().flat_map(crate::plan::Step::reads);
            reads.flat_map(|(file, range)| {
                let starts = range.clone().step_by(READ);
                starts.map(move |start| (file, start..range.end.min(start + READ as u64)))
            })
        };
        let count = pieces().count() as u64;
        // Every 64th first, so that a second sees all of the files.
        let apart = count.div_ceil(SPREAD).max(1);
        let mut buffer = vec![0; READ];
        let (mut bytes, started) = (0, Instant::now());
        'reading: for first in 0..apart {
            for (file, range) in pieces().skip(first as usize).step_by(apart as usize) {
                let len = (range.end - range.start) as usize;
                source.read_at(file, range.start, &mut buffer[..len])?;
                bytes += len as u64;
                if started.elapsed() >= time {
                    break 'reading;
                }
            }
        }
        let seconds = started.elapsed().as_secs_f64();
        let bytes_per_second = bytes as f64 / seconds.max(f64::MIN_POSITIVE);
        Ok(Some(ReadRate {
            bytes_per_second,
            bytes,
            seconds,
            seconds_read: total as f64 / bytes_per_second,
        }))
    }
}
