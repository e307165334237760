//! The report of a load: bytes, seconds, memory, tensor by tensor.

mod series;
mod watch;

mod recording;

mod saved;

mod page;

mod verify;

pub use page::{Curve, Picture, training_page};
pub(crate) use recording::{Recorded, Recording};
pub use saved::Saved;
pub use series::Series;
pub use verify::{Fallback, TensorCheck, VerifyReport};
pub(crate) use verify::{check, numbers};
pub(crate) use watch::MemoryWatch;

use core::{fmt, ops::Range};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use firebox_kernels::{compare::Stats, linear::Compute};
use serde::Serialize;

use crate::{
    config::{Bytes, Ranks, Strategy},
    model::{
        Role,
        stream::{StreamStats, StreamTally},
    },
    observe::{RunTotals, Span},
    pipeline::Timing,
    plan::{Action, Home, Plan, Step, Treatment, memory::runs},
    ranks::{ReadRange, WeightDigest},
    source::{FetchTotals, Probe},
    target::{DType, dense_types},
};

/// The report of a load. Serialises to the JSON that `firebox load --json` prints.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct LoadReport {
    /// The checkpoint.
    pub model: String,
    /// The target.
    pub target: String,
    /// The name that the driver gives the device, the first one where there are several.
    pub device: String,
    /// Each device, in the order that was asked for.
    pub devices: Vec<DeviceReport>,
    /// Bytes of weights that stay in host memory and come to a device when they are needed.
    pub bytes_on_host: u64,
    /// Bytes of those that stay on disk.
    pub bytes_on_disk: u64,
    /// The quantizations of the packed weights, joined by ` + `; `none` where all weights are dense.
    pub quant: String,
    /// Type of dense weights and activations.
    pub dtype: DType,
    /// The type that was asked for or would have been chosen: another one where the device does not
    /// compute in it.
    pub dtype_wanted: DType,
    /// The types of matrices that stay as they are stored, other than [`dtype`](Self::dtype).
    pub halves: Vec<DType>,
    /// The arithmetic of products that was asked for.
    pub compute: Compute,
    /// How many matrices are multiplied in which arithmetic: those that it does not suit are in `f32`.
    pub computes: BTreeMap<Compute, usize>,
    /// Where the finished weights live.
    pub strategy: Strategy,
    /// Why this strategy.
    pub strategy_reason: String,
    /// From the plan to the built module.
    pub seconds: f64,
    /// Reading, which overlaps with the rest.
    pub seconds_read: f64,
    /// Converting.
    pub seconds_convert: f64,
    /// Placing.
    pub seconds_place: f64,
    /// Bytes of the tensors in the checkpoint.
    pub bytes_source: u64,
    /// Bytes read: more than the source has where a format needs to see it twice.
    pub bytes_read: u64,
    /// Bytes of the finished weights, packed and dense.
    pub bytes_packed: u64,
    /// Values of the weights, packed and dense; those that several modules share count once.
    pub parameters: u64,
    /// Values of adapters, which are beside those bytes in `f32`.
    pub adapter_values: u64,
    /// Most anonymous memory that the process held during the load, measured; `None` where the system
    /// does not tell.
    pub peak_host_bytes: Option<u64>,
    /// Anonymous memory the process held when the load began.
    pub host_bytes_before: Option<u64>,
    /// Bytes of source weights that may be in host memory at once.
    pub in_flight_bytes_max: u64,
    /// Threads that convert.
    pub workers: usize,
    /// How weights were read and why, where that was looked into.
    pub probe: Option<Probe>,
    /// What came over the network, where the checkpoint is not on this machine: as `fetched_bytes` and `requests`.
    #[serde(flatten)]
    pub fetched: Option<FetchTotals>,
    /// The files that the tokenizer was made from, in words, where it was read before the load.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
    /// Bytes of host memory that the load might take beside what the process had: the budget, or what the system leaves.
    pub host_bytes_max: Option<u64>,
    /// Bytes of the device's memory that the model might take: the budget, or all of it where the driver reports it.
    pub device_bytes_max: Option<u64>,
    /// What products with streamed weights waited for, and how often an expert was on the device: counted while the model is
    /// in use, so that the report always has the latest numbers. `None` where no weight is streamed.
    #[serde(skip)]
    pub streamed: Option<StreamTally>,
    /// Anonymous memory of the process over time.
    #[serde(skip)]
    pub host_bytes: Series,
    /// Memory that the device has set aside, over time; empty where it has no memory of its own or its driver does not report it.
    #[serde(skip)]
    pub device_bytes: Series,
    /// Tensors loaded.
    pub tensors: usize,
    /// Each of them, in the order they were read.
    pub per_tensor: Vec<TensorReport>,
    /// Tensors of the files that the model does not read: those of other modalities, copies, computed tables.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
    /// What the checkpoint and its configuration say differently, and which of them was believed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// What one of several ranks has read and keeps.
    #[serde(flatten)]
    pub rank: Option<RankReport>,
    /// How far the packed weights are from their source, where [`LoadConfig::verify`](crate::LoadConfig::verify) asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verified: Option<VerifyReport>,
}

/// What one device has of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DeviceReport {
    /// Its index among the devices of the target.
    pub index: usize,
    /// Its target.
    pub target: String,
    /// The name that the driver gives it.
    pub name: String,
    /// Bytes of the finished weights that live there.
    pub bytes: u64,
    /// Most memory that it had set aside during the load, as its driver counts, or the bytes of its weights where they are in host
    /// memory; `None` where the driver does not tell.
    pub peak_bytes: Option<u64>,
    /// Bytes that the model may take of it, where that is bounded.
    pub memory: Option<u64>,
    /// The numbers of the layers that run there.
    pub layers: Vec<usize>,
}

/// The report of one of several ranks.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct RankReport {
    /// Which one, of how many, and what each has.
    #[serde(flatten)]
    pub ranks: Ranks,
    /// Its layers, where each rank has some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<Range<usize>>,
    /// Bytes of the checkpoint that it reads and other ranks read too.
    pub bytes_shared: u64,
    /// The bytes of the files that it has read, headers apart. Ranges that touch are one.
    pub ranges: Vec<ReadRange>,
    /// XXH3 (128 bits) of the list of [`weights`](Self::weights): a line `name layout digest` for each, sorted by name, each
    /// ending in a newline.
    pub digest: String,
    /// The weights that it keeps.
    pub weights: Vec<WeightDigest>,
}

/// The report of one tensor.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct TensorReport {
    /// Name in the checkpoint.
    pub name: String,
    /// Its purpose.
    pub role: Role,
    /// Its quantization.
    pub quant: Treatment,
    /// The arithmetic of products with it, where it is a matrix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compute: Option<Compute>,
    /// Values in it.
    pub weights: usize,
    /// Bytes read: more than the checkpoint has of it where a format needs to see it twice.
    pub bytes_read: u64,
    /// Bytes of the finished weight.
    pub bytes_packed: u64,
    /// Reading.
    pub seconds_read: f64,
    /// Converting.
    pub seconds_convert: f64,
    /// Placing.
    pub seconds_place: f64,
    /// From when to when it was read, in seconds since the beginning; `None` where nothing had to be.
    pub span_read: Option<[f64; 2]>,
    /// From when to when it was converted.
    pub span_convert: Option<[f64; 2]>,
    /// From when to when it was placed.
    pub span_place: Option<[f64; 2]>,
    /// How far it is from its source, where it was verified.
    #[serde(serialize_with = "numbers", skip_serializing_if = "Option::is_none")]
    pub error: Option<Stats>,
}

/// The means of a load: device, threads and memory.
pub(crate) struct RunFacts {
    /// The name that the driver gives the device.
    pub(crate) device: String,
    pub(crate) workers: usize,
    pub(crate) in_flight_bytes_max: u64,
    pub(crate) probe: Option<Probe>,
    pub(crate) fetched: Option<FetchTotals>,
    pub(crate) tokenizer: Option<String>,
    pub(crate) host_bytes_max: Option<u64>,
    pub(crate) device_bytes_max: Option<u64>,
}

impl LoadReport {
    pub(crate) fn new(
        plan: &Plan,
        facts: RunFacts,
        timings: &[Timing],
        mut recorded: Recorded,
    ) -> Self {
        let totals = plan.totals();
        let since = |moment: Instant| (moment - recorded.started).as_secs_f64();
        let seconds = |span: Option<Span>| span.map(|span| [since(span.from), since(span.to)]);
        let sum = |part: fn(&Timing) -> Duration| {
            timings.iter().map(part).sum::<Duration>().as_secs_f64()
        };
        let values = |step: &Step| step.slot.shape.iter().product::<usize>() as u64;
        let tensors = plan
            .steps
            .iter()
            .zip(timings)
            .map(|(step, timing)| TensorReport {
                name: step.slot.name.clone(),
                role: step.slot.role,
                quant: step.quant(),
                compute: step.compute(plan),
                weights: step.kept().slot.shape.iter().product(),
                bytes_read: timing.bytes,
                bytes_packed: step.bytes_kept(),
                seconds_read: timing.read.as_secs_f64(),
                seconds_convert: timing.convert.as_secs_f64(),
                seconds_place: timing.place.as_secs_f64(),
                span_read: seconds(timing.spans.read),
                span_convert: seconds(timing.spans.convert),
                span_place: seconds(timing.spans.place),
                error: recorded.errors.remove(&step.slot.name),
            })
            .collect();
        let streamed = |home| {
            let there = plan.steps.iter().filter(|step| step.home == home);
            there.map(Step::bytes_finished).sum()
        };
        Self {
            model: plan.model.clone(),
            target: plan.target().to_owned(),
            device: facts.device,
            devices: devices(plan, &recorded.peaks),
            bytes_on_host: streamed(Home::Host),
            bytes_on_disk: streamed(Home::Disk),
            quant: quants(plan),
            dtype: plan.dtype,
            dtype_wanted: plan.dtype_wanted,
            halves: plan.halves(),
            compute: plan.compute,
            computes: plan.computes(),
            strategy: plan.strategy,
            strategy_reason: plan.strategy_reason.clone(),
            warnings: plan.warnings(),
            left_out: [&plan.unused[..], &plan.unexpected].concat(),
            seconds: since(recorded.ended),
            seconds_read: sum(|timing| timing.read),
            seconds_convert: sum(|timing| timing.convert),
            seconds_place: sum(|timing| timing.place),
            bytes_source: totals.bytes_source,
            bytes_read: timings.iter().map(|timing| timing.bytes).sum(),
            bytes_packed: totals.bytes_finished,
            parameters: plan.steps.iter().map(values).sum(),
            adapter_values: plan.adapters.iter().map(|adapter| adapter.values).sum(),
            peak_host_bytes: recorded.host.since.peak().map(|(_, bytes)| bytes),
            host_bytes_before: recorded.host.before,
            in_flight_bytes_max: facts.in_flight_bytes_max,
            workers: facts.workers,
            probe: facts.probe,
            fetched: facts.fetched,
            tokenizer: facts.tokenizer,
            host_bytes_max: facts.host_bytes_max,
            device_bytes_max: facts.device_bytes_max,
            streamed: None,
            rank: None,
            host_bytes: recorded.host.since,
            device_bytes: recorded.device,
            tensors: totals.tensors,
            per_tensor: tensors,
            verified: None,
        }
    }

    /// The numbers of the whole run, as the event that ends it has them.
    pub(crate) fn totals(&self) -> RunTotals {
        RunTotals {
            tensors: self.tensors,
            bytes_source: self.bytes_source,
            bytes_read: self.bytes_read,
            bytes_finished: self.bytes_packed,
            seconds: self.seconds,
            peak_host_bytes: self.peak_host_bytes,
        }
    }

    /// Bits of a linear weight on average, scales included: what a quantization is judged by. Embeddings,
    /// heads and norms do not count.
    pub fn bits_per_weight(&self) -> f64 {
        let linear = self
            .per_tensor
            .iter()
            .filter(|tensor| tensor.role == Role::Linear);
        let (bytes, weights) = linear.fold((0, 0), |(bytes, weights), tensor| {
            (bytes + tensor.bytes_packed, weights + tensor.weights)
        });
        bytes as f64 * 8.0 / weights as f64
    }

    /// What products with streamed weights waited for so far; `None` where no weight is streamed.
    pub fn stream_stats(&self) -> Option<StreamStats> {
        self.streamed.as_ref().map(StreamTally::stats)
    }

    /// Source bytes a second, over the whole load.
    pub fn bytes_per_second(&self) -> f64 {
        self.bytes_source as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }
}

/// What each device of a plan has.
fn devices(plan: &Plan, peaks: &[Option<u64>]) -> Vec<DeviceReport> {
    let devices = plan.devices.iter().enumerate();
    let devices = devices.map(|(nth, device)| DeviceReport {
        index: device.index,
        target: device.target.clone(),
        name: device.name.clone(),
        bytes: plan.resident(nth),
        peak_bytes: match device.on_host {
            true => Some(plan.resident(nth)),
            false => peaks.get(nth).copied().flatten(),
        },
        memory: device.memory,
        layers: plan.layers_on(nth),
    });
    devices.collect()
}

/// Every spec that packed something, the most used first.
fn quants(plan: &Plan) -> String {
    let mut counts: Vec<(String, usize)> = Vec::new();
    for step in &plan.steps {
        if step.action.format().is_none() {
            continue;
        }
        let spec = match &step.action {
            Action::Pack(spec, _) => spec.to_string(),
            _ => step.quant().to_string(),
        };
        match counts.iter_mut().find(|(known, _)| *known == spec) {
            Some((_, count)) => *count += 1,
            None => counts.push((spec, 1)),
        }
    }
    counts.sort_by_key(|(_, count)| core::cmp::Reverse(*count));
    let specs: Vec<String> = counts.into_iter().map(|(spec, _)| spec).collect();
    if specs.is_empty() {
        "none".to_owned()
    } else {
        specs.join(" + ")
    }
}

/// Two lines for people, a third once streamed weights were used, and a line for each warning; the table by tensor is in [`LoadReport::per_tensor`].
impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} tensors, {} read, {} kept ({} and {} on {}) in {:.2} s, {}/s",
            self.tensors,
            Bytes(self.bytes_read),
            Bytes(self.bytes_packed),
            self.quant,
            dense_types(self.dtype, self.dtype_wanted, &self.halves),
            self.target,
            self.seconds,
            Bytes(self.bytes_per_second() as u64),
        )?;
        write!(
            f,
            "strategy {}, workers {}, read {:.2} s, convert {:.2} s, place {:.2} s",
            self.strategy,
            self.workers,
            self.seconds_read,
            self.seconds_convert,
            self.seconds_place
        )?;
        if self.adapter_values > 0 {
            write!(f, ", {} values in adapters", self.adapter_values)?;
        }
        if let Some(peak) = self.peak_host_bytes {
            write!(f, ", peak memory {}", Bytes(peak))?;
        }
        if let Some(files) = &self.tokenizer {
            write!(f, ", tokenizer from {files}")?;
        }
        if let Some(fetched) = &self.fetched {
            write!(f, ", {fetched}")?;
        }
        match &self.left_out[..] {
            [] => {}
            [one] => write!(f, ", left out {one}")?,
            [first, others @ ..] => {
                write!(f, ", left out {first} and {} more tensors", others.len())?;
            }
        }
        if self.devices.len() > 1 {
            for device in &self.devices {
                let (target, index, bytes) = (&device.target, device.index, Bytes(device.bytes));
                let layers = runs(&device.layers);
                write!(f, "\n{target} {index}: {bytes} of weights, layers {layers}")?;
            }
        }
        if let Some(stats) = self.stream_stats().filter(StreamStats::is_used) {
            write!(f, "\n{stats}")?;
        }
        if let Some(rank) = &self.rank {
            let Ranks {
                rank: nth,
                world_size,
                parallel,
            } = rank.ranks;
            let (ranges, digest) = (rank.ranges.len(), &rank.digest);
            write!(
                f,
                "\nrank {nth} of {world_size}, {parallel}, {ranges} ranges read, digest {digest}"
            )?;
        }
        let mut warnings = self.warnings.iter();
        warnings.try_for_each(|warning| write!(f, "\nwarning: {warning}"))
    }
}
