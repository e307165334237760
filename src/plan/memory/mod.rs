//! The memory that a model takes, foretold from headers and a configuration alone.
//!
//! ```text
//! Plan ─────────► weights of each device and of the host ─┐
//! the pipeline ─► buffers and scratch of a load ──────────┼─► MemoryPlan
//! the model ────► cache and activations of a pass ────────┤
//! training ─────► factors, gradients, moments ────────────┘
//! ```
//!
//! Every number is a sum over the same sizes that the load itself goes by. Parts that grow with the model and parts
//! that every process has are printed apart.

mod print;

pub(crate) use print::runs;
use serde::Serialize;

use super::{Home, Plan, Step};
use crate::{
    config::Bytes,
    model::{PassBytes, PassSize},
};

/// The memory that a model takes on each device and on the host, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct MemoryPlan {
    /// Of the finished weights, packed and dense.
    pub bytes_packed: u64,
    /// That are read of the checkpoint.
    pub bytes_read: u64,
    /// The most that the process has of the host's memory: see [`HostMemory::peak_bytes`].
    pub peak_host_bytes: u64,
    /// The host.
    pub host: HostMemory,
    /// The devices, in the order of [`Plan::devices`].
    pub devices: Vec<DeviceMemory>,
    /// The pass that is counted, if one is.
    #[serde(flatten)]
    pub pass: Option<PassSize>,
}

/// The memory of the host, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct HostMemory {
    /// That there is for the load: the budget, or what the system leaves; `None` where nobody knows.
    #[serde(rename = "memory")]
    pub limit: Option<u64>,
    /// That the process has before a weight is read: the program itself, the headers and the plan. Measured when the plan is made.
    #[serde(rename = "fixed_bytes")]
    pub fixed: u64,
    /// Finished weights that stay.
    #[serde(rename = "bytes")]
    pub weights: u64,
    /// Buffers between reader and converter, at the highest moment of the load.
    #[serde(rename = "in_flight_bytes")]
    pub in_flight: u64,
    /// What is made beside a weight at that moment.
    #[serde(rename = "scratch_bytes")]
    pub scratch: u64,
    /// What the model in use takes where its tensors are in host memory, and of weights that are streamed from a file.
    #[serde(rename = "use_bytes")]
    pub in_use: u64,
    /// The most: that of the load, or that of the model in use where a pass is counted.
    pub peak_bytes: u64,
}

/// The memory of one device, in bytes. Where its tensors are in host memory, the host's peak has it too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DeviceMemory {
    /// Its index among the devices of its target.
    pub index: usize,
    /// Its target.
    pub target: String,
    /// The name that its driver has for it.
    pub name: String,
    /// Its layers, by number.
    pub layers: Vec<usize>,
    /// That there is; `None` where nobody knows, and where its tensors are in host memory.
    #[serde(rename = "memory")]
    pub limit: Option<u64>,
    /// That are taken before the first tensor: the context of the driver. `None` where nobody has measured them.
    #[serde(rename = "fixed_bytes")]
    pub fixed: Option<u64>,
    /// Finished weights.
    #[serde(rename = "bytes")]
    pub weights: u64,
    /// What packing a weight on the device takes beside it, or the rows that a product unpacks, or weights that are streamed.
    #[serde(rename = "scratch_bytes")]
    pub scratch: u64,
    /// Keys and values of the pass.
    #[serde(rename = "cache_bytes")]
    pub cache: u64,
    /// Tensors of the pass that exist at once.
    #[serde(rename = "activation_bytes")]
    pub activations: u64,
    /// Trained values, gradients and moments.
    #[serde(rename = "training_bytes")]
    pub training: u64,
    /// The most of all that.
    pub peak_bytes: u64,
}

/// A memory that is too small.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lacking {
    /// Which: `host`, or the target and index of a device.
    pub place: String,
    /// Bytes that are needed.
    pub needed: u64,
    /// Bytes that there are.
    pub memory: u64,
}

/// The memory that training takes beside base weights, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TrainingBytes {
    /// Trained values, their gradients and the moments of the optimizer.
    pub trained: u64,
    /// What the graph keeps of the activations of a batch.
    pub activations: u64,
    /// Logits of the rows that exist at a time.
    pub logits: u64,
    /// The program and gaps of the allocator, where tensors are in host memory.
    pub fixed: u64,
}

/// What a load takes, beside the plan.
#[derive(Debug, Clone)]
pub(crate) struct LoadBytes {
    /// That the process has before.
    pub(crate) fixed: u64,
    /// That the process may have.
    pub(crate) limit: Option<u64>,
    /// Weights that stay on the host, buffers, and scratch, at the highest moment.
    pub(crate) host: [u64; 3],
    /// Whether weights lie in maps of their files, which are no memory of the process.
    pub(crate) mapped: bool,
    /// Bytes that a device packs at once.
    pub(crate) tile: u64,
    /// Weights that each device has at once of those that are streamed to it.
    pub(crate) streamed: Vec<u64>,
    /// Rows that a product unpacks.
    pub(crate) unpacked: u64,
    /// Before the first tensor of a device.
    pub(crate) device_fixed: Option<u64>,
}

/// What a model in use takes.
#[derive(Debug, Clone, Default)]
pub(crate) struct UseBytes {
    pub(crate) pass: Option<(PassSize, PassBytes)>,
    pub(crate) training: Option<TrainingBytes>,
}

/// Gaps that the allocator of the host leaves between tensors that come and go are this part of a pass: measured in three passes, whose
/// tensors are as many as are counted.
const GAPS: u64 = 5;

impl MemoryPlan {
    /// The memory of a plan.
    pub(crate) fn new(plan: &Plan, load: &LoadBytes, used: &UseBytes) -> Self {
        let totals = plan.totals();
        let places = Places::of(plan);
        let devices = plan.devices.iter().enumerate();
        let devices: Vec<DeviceMemory> = devices
            .map(|(nth, _)| device(plan, &places, nth, load, used))
            .collect();
        let [weights, in_flight, scratch] = load.host;
        let on_host = devices.iter().zip(&plan.devices);
        let on_host = || on_host.clone().filter(|(_, facts)| facts.on_host);
        let stays: u64 = on_host()
            .map(|(device, _)| device.cache + device.training)
            .sum();
        // Layers run one after another; a graph keeps what all of them have made.
        let activations = on_host().map(|(device, _)| device.activations);
        let largest = activations.clone().max().unwrap_or(0);
        let in_use = stays
            + match used.training {
                Some(_) => activations.sum(),
                None => largest,
            };
        let kept = plan.steps.iter().filter(|step| plan.stays_on_host(step));
        let kept = kept.filter(|step| !load.mapped || step.action.format().is_some());
        let kept = kept.map(Step::bytes_kept).sum::<u64>();
        // What the process has before is measured, but for training, whose own count has it.
        let peak_used = match (&used.training, &used.pass) {
            (Some(training), _) => kept + in_use + training.fixed,
            (None, Some(_)) => load.fixed + kept + in_use + largest / GAPS,
            (None, None) => 0,
        };
        let host = HostMemory {
            limit: load.limit,
            fixed: load.fixed,
            weights,
            in_flight,
            scratch,
            in_use,
            peak_bytes: (load.fixed + weights + in_flight + scratch).max(peak_used),
        };
        Self {
            bytes_packed: totals.bytes_finished,
            bytes_read: totals.bytes_source,
            peak_host_bytes: host.peak_bytes,
            host,
            devices,
            pass: used.pass.as_ref().map(|(size, _)| *size),
        }
    }

    /// Every memory whose size is known, with what is needed of it.
    pub fn places(&self) -> Vec<Lacking> {
        let host = self.host.limit.map(|memory| Lacking {
            place: "host".to_owned(),
            // The limit is of what the load takes beside what the process has.
            needed: self.host.peak_bytes.saturating_sub(self.host.fixed),
            memory,
        });
        let devices = self.devices.iter().filter_map(|device| {
            Some(Lacking {
                place: device.place(),
                needed: device.peak_bytes,
                memory: device.limit?,
            })
        });
        host.into_iter().chain(devices).collect()
    }

    /// The memories that are too small; none where all is known to fit.
    pub fn lacking(&self) -> Vec<Lacking> {
        let mut places = self.places();
        places.retain(|place| place.needed > place.memory);
        places
    }
}

impl Lacking {
    /// Bytes that are missing.
    pub fn short(&self) -> u64 {
        self.needed.saturating_sub(self.memory)
    }
}

impl core::fmt::Display for Lacking {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (needed, memory) = (Bytes(self.needed), Bytes(self.memory));
        write!(f, "{}: {needed} needed, {memory} there", self.place)
    }
}

impl DeviceMemory {
    /// In words: `cuda 1`.
    pub fn place(&self) -> String {
        format!("{} {}", self.target, self.index)
    }
}

/// Which layers are where.
struct Places {
    /// The device of each layer: where most of its bytes are.
    layers: Vec<usize>,
    /// The device of what comes after the last layer.
    last: usize,
}

impl Places {
    fn of(plan: &Plan) -> Self {
        let mut bytes: Vec<Vec<u64>> = Vec::new();
        for step in &plan.steps {
            let (Some(layer), nth) = (layer_of(&step.slot.name), step.device) else {
                continue;
            };
            if bytes.len() <= layer {
                bytes.resize(layer + 1, vec![0; plan.devices.len()]);
            }
            bytes[layer][nth] += step.bytes_kept();
        }
        let most = |bytes: &Vec<u64>| {
            let places = bytes.iter().enumerate().rev();
            places
                .max_by_key(|(_, bytes)| **bytes)
                .map_or(0, |(nth, _)| nth)
        };
        let layers: Vec<usize> = bytes.iter().map(most).collect();
        let last = layers.last().copied().unwrap_or(0);
        Self { layers, last }
    }
}

/// The layer that a tensor is of, by its name: the first part that is a number.
pub(crate) fn layer_of(name: &str) -> Option<usize> {
    name.split('.').find_map(|part| part.parse().ok())
}

fn device(
    plan: &Plan,
    places: &Places,
    nth: usize,
    load: &LoadBytes,
    used: &UseBytes,
) -> DeviceMemory {
    let facts = &plan.devices[nth];
    let at_home = || {
        plan.steps
            .iter()
            .filter(|step| step.home == Home::Device(nth))
    };
    let weights: u64 = at_home().map(Step::bytes_kept).sum();
    let of_layers = places.layers.iter().enumerate();
    let layers: Vec<usize> = of_layers
        .filter_map(|(layer, device)| (*device == nth).then_some(layer))
        .collect();
    let is_last = places.last == nth;

    // Tiles of a weight are joined on the device: both are there for a moment.
    let packs = at_home().filter(|step| plan.packs_on_device(step));
    let packing = packs
        .map(|step| step.bytes_finished() + 2 * load.tile.min(step.bytes_on_way()))
        .max();
    let unpacks = at_home().any(|step| step.action.format().is_some());
    let unpacked = if unpacks && !facts.on_host {
        load.unpacked
    } else {
        0
    };
    let streamed = load.streamed.get(nth).copied().unwrap_or(0);
    let (mut cache, mut activations) = (0, 0);
    if let Some((_, pass)) = &used.pass {
        let mine = || layers.iter().filter_map(|layer| pass.layers.get(*layer));
        cache = mine().map(|layer| layer.cache).sum();
        let most = mine().map(|layer| layer.activations).max().unwrap_or(0);
        let head = if is_last { pass.head } else { 0 };
        activations = pass.through + most.max(head);
    }
    let mut training = 0;
    if let Some(bytes) = &used.training {
        let (part, all) = (
            layers.len().max(1) as u64,
            places.layers.len().max(1) as u64,
        );
        training = bytes.trained / all * part;
        cache = 0;
        activations = bytes.activations / all * part + if is_last { bytes.logits } else { 0 };
    }
    let in_use = streamed + unpacked + cache + activations + training;
    let scratch = packing.unwrap_or(0).max(unpacked) + streamed;
    DeviceMemory {
        index: facts.index,
        target: facts.target.clone(),
        name: facts.name.clone(),
        layers,
        limit: facts.memory,
        fixed: load.device_fixed,
        weights,
        scratch,
        cache,
        activations,
        training,
        peak_bytes: load.device_fixed.unwrap_or(0) + weights + scratch.max(in_use),
    }
}

#[cfg(test)]
mod tests {
    use super::layer_of;

    #[test]
    fn layers_are_numbered_by_their_names() {
        for (name, layer) in [
            ("model.layers.7.mlp.up_proj.weight", Some(7)),
            ("transformer.h.11.attn.c_attn.weight", Some(11)),
            ("model.layers.3.mlp.experts.5.w1.weight", Some(3)),
            ("model.embed_tokens.weight", None),
            ("lm_head.weight", None),
        ] {
            assert_eq!(layer_of(name), layer, "{name}");
        }
    }
}
