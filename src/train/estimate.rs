//! The memory that a run takes, before it is begun.

use std::collections::{BTreeMap, HashMap};

use super::{
    activations::{Passing, Trains},
    batch_moment::BatchMoment,
    config::FinetuneConfig,
    optimizer::{MomentForm, OptimizerConfig},
};
use crate::{
    adapter::{AdapterError, AdapterFile, AdapterParts, rank_of},
    config::{AdapterConfig, LoadConfig, LoraConfig, Parallel, Role, TrainType},
    model::{Slot, decoder::Spec},
    plan::{Plan, Step, layer_of},
    quant::scratch::UNPACKED_BYTES,
    target::DType,
};

/// The memory of a training run at the moment when it takes the most, in bytes: device and host together, which are one on a CPU.
///
/// All of it is counted from shapes. `tests/cli/memory.rs` compares it with the program, `tests/training_memory.rs` the activations with what
/// a graph keeps, and `cargo bench --bench memory` all of it with runs of factors, experts, new blocks and all values: it differs by less
/// than 5 %, but for new blocks that are computed again in long rows (6 % too low: the allocator keeps freed blocks of scores).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryEstimate {
    /// The weights that are not trained, packed or dense.
    pub weights: u64,
    /// Trained values, in `f32`: those of an adapter, of new blocks, or all.
    pub trained: u64,
    /// Their gradients.
    pub gradients: u64,
    /// Their moments.
    pub optimizer: u64,
    /// What the graph keeps of the activations of a batch: with recomputation what goes into each layer, and the inside of one.
    pub activations: u64,
    /// What one layer needs beside, while it is gone through backwards: a packed matrix in part dense, gradients of its activations, and its
    /// matrices where ranks have shares of them. 0 where the logits need more, before.
    pub backward: u64,
    /// Logits of the rows that exist at a time, and the head in part dense. 0 where a layer needs more, after.
    pub logits: u64,
    /// Copies of trained values that a checkpoint is written from. 0 where a batch needs more.
    pub checkpoint: u64,
    /// The program itself, its data, and gaps between blocks of the allocator.
    pub fixed: u64,
    /// What the load has beside finished weights, the program included. 0 where training needs more, after.
    pub load: u64,
}

impl MemoryEstimate {
    /// All of it.
    pub fn peak(&self) -> u64 {
        let parts = [
            self.trained,
            self.gradients,
            self.optimizer,
            self.activations,
            self.backward,
            self.logits,
            self.checkpoint,
            self.fixed,
            self.load,
        ];
        parts.into_iter().fold(self.weights, u64::saturating_add)
    }

    /// The same where the load takes `bytes` before: the load, if that is more.
    pub(super) fn or_load(self, bytes: u64) -> Self {
        match bytes > self.peak() {
            true => Self {
                weights: self.weights,
                load: bytes.saturating_sub(self.weights),
                ..Self::default()
            },
            false => self,
        }
    }
}

/// Rows of logits at a time.
const ROWS: u64 = 256;
/// Bytes of a packed matrix that are dense at a time.
const UNPACKED: u64 = UNPACKED_BYTES as u64;
const F32: u64 = 4;
/// The program, its threads with what products pack, a tokenizer, and two windows of rows.
const PROGRAM: u64 = 22 << 20;
/// Gaps between blocks of the allocator are this part of what comes and goes with a batch, and a block of scores: measured, in twelve
/// shapes of batches.
const GAPS: u64 = 32;
/// The same for gradients of whole matrices, measured in ten runs.
const GAPS_OF_WHOLE: u64 = 4;
/// Values of the smallest tensor whose moments are in 8 bits.
const CODED: u64 = 4096;

impl FinetuneConfig {
    /// The memory that this run takes with the base of a plan and rows of `length` tokens. The plan is one that was made with
    /// [`load_config`](Self::load_config).
    ///
    /// # Errors
    ///
    /// [`AdapterError`] where the files of an adapter that is trained further cannot be read.
    pub fn memory(
        &self,
        plan: &Plan,
        spec: &Spec,
        length: usize,
    ) -> Result<MemoryEstimate, AdapterError> {
        let what = What::of(self, plan, spec)?;
        let values = what.values();
        let own = plan.steps.iter().filter(|step| what.has(step));
        let of_trained: u64 = own.clone().map(Step::bytes_finished).sum();
        let largest = own.map(values_of).max().unwrap_or(0);
        let weights = plan.totals().bytes_finished - of_trained;
        let trains = |path: &str| what.trains(path);
        let size = match plan.dtype {
            DType::F32 => F32,
            DType::F16 | DType::Bf16 => 2,
        };
        let ends = what.of_ends();
        let passing = Passing {
            spec,
            shape: [self.batch, length],
            size,
            // What comes out of a table that is not trained is a constant.
            enters: (ends == 0).then_some(what.first),
            trains: &trains,
        };
        // The largest part of a matrix that is made dense, where it is not.
        let scratch = |roles: [Role; 2]| {
            let steps = plan.steps.iter();
            let parts = steps
                .filter(|step| roles.contains(&step.slot.role))
                .map(
                    |step| match step.bytes_finished() < product(&step.slot.shape) * size {
                        true => UNPACKED.min(values_of(step) * size),
                        false => 0,
                    },
                );
            parts.max().unwrap_or(0)
        };

        let trained = values.saturating_mul(F32);
        let in_graph = what.first..spec.layers.len();
        let rejoined = Rejoined::of(plan);
        let logits = ROWS.min(passing.tokens()) * spec.vocabulary as u64 * F32;
        let head = scratch([Role::Head, Role::Embedding]);
        let logits = (2 * logits).max(logits + head) + 2 * passing.input() + rejoined.head;
        let at = |layers: u64| match self.recompute {
            true => layers.saturating_mul(passing.input()),
            false => in_graph
                .clone()
                .take(layers as usize)
                .fold(0, |sum: u64, nth| sum.saturating_add(passing.layer(nth))),
        };
        // Backwards: what earlier layers have made is still there, and the gradients of later ones are.
        let mut moment = BatchMoment {
            activations: at(in_graph.len() as u64),
            logits,
            gradients: 2 * ends,
            ..BatchMoment::default()
        };
        let mut gradients = ends;
        let unpacked = scratch([Role::Linear, Role::Expert]) + rejoined.layer;
        for (before, nth) in in_graph.clone().enumerate().rev() {
            gradients += what.of_layer(nth, trained / in_graph.len().max(1) as u64);
            let inside = if self.recompute {
                passing.layer(nth)
            } else {
                0
            };
            // The table of an embedding has gradients from both of its ends, which are added up.
            let twice = if before == 0 { 2 * ends } else { 0 };
            moment = moment.most(BatchMoment {
                activations: at(before as u64 + 1).saturating_add(inside),
                backward: unpacked.saturating_add(passing.gradients(nth)),
                gradients: gradients + twice,
                logits: 0,
            });
        }
        let BatchMoment {
            activations,
            backward,
            logits,
            gradients: of_layers,
        } = moment;

        let optimizer = moments(&self.optimizer(), values);
        let sums = if self.accumulation > 1 { trained } else { 0 };
        let of_batch = activations.saturating_add(backward).saturating_add(logits);
        // Gradients of matrices find no room where activations were.
        let of_whole = if what.factors.is_none() { trained } else { 0 };
        let mut estimate = MemoryEstimate {
            weights,
            trained,
            gradients: sums + of_layers,
            optimizer,
            activations,
            backward,
            logits,
            checkpoint: 0,
            fixed: PROGRAM + of_batch / GAPS + of_whole / GAPS_OF_WHOLE + passing.scores_at_once(),
            load: 0,
        };
        // Where nothing is left of the batch: all gradients are there, and one of them twice, since it is scaled; or a checkpoint copies
        // the values, makes peft's tensors of them and a file of these.
        let copies = match what.factors {
            Some(_) => trained.saturating_mul(3),
            None => trained,
        };
        let gradients = trained
            .saturating_add(sums)
            .saturating_add(largest.saturating_mul(F32));
        if copies.max(gradients) > of_batch + of_layers + sums {
            let is_written = copies > gradients;
            estimate = MemoryEstimate {
                gradients: if is_written { 0 } else { gradients },
                checkpoint: if is_written { copies } else { 0 },
                activations: 0,
                backward: 0,
                logits: 0,
                fixed: PROGRAM + of_whole / GAPS_OF_WHOLE,
                ..estimate
            };
        }
        Ok(estimate)
    }
}

/// Values of a weight, of which a rank may have some bytes.
fn values_of(step: &Step) -> u64 {
    let part = step.part.as_ref().filter(|part| part.bytes.is_some());
    product(part.map_or(&step.slot.shape, |part| &part.of))
}

fn product(shape: &[usize]) -> u64 {
    shape.iter().map(|count| *count as u64).product()
}

/// Bytes of the weights that come together for a while, where each rank has some bytes of every one.
#[derive(Default)]
struct Rejoined {
    /// The largest layer.
    layer: u64,
    /// The head, which may be the embedding.
    head: u64,
}

impl Rejoined {
    fn of(plan: &Plan) -> Self {
        let ranks = plan.ranks.as_ref().map(|share| share.ranks);
        let Some(ranks) = ranks.filter(|ranks| ranks.parallel == Parallel::Shard) else {
            return Self::default();
        };
        let whole = |step: &Step| step.bytes_kept() * ranks.world_size as u64;
        let mut layers: BTreeMap<usize, u64> = BTreeMap::new();
        for step in plan.steps.iter().filter(|step| step.slot.is_matrix()) {
            if let Some(layer) = layer_of(&step.slot.name) {
                *layers.entry(layer).or_default() += whole(step);
            }
        }
        let ends = plan.steps.iter();
        let ends = ends.filter(|step| [Role::Head, Role::Embedding].contains(&step.slot.role));
        Self {
            layer: layers.into_values().max().unwrap_or(0),
            head: ends.map(whole).max().unwrap_or(0),
        }
    }
}

/// Two moments a value.
fn moments(optimizer: &OptimizerConfig, values: u64) -> u64 {
    match optimizer.moments {
        MomentForm::Blocks if values >= CODED => values.saturating_mul(2) + values / 32,
        MomentForm::Full | MomentForm::Blocks => values.saturating_mul(2 * F32),
    }
}

/// What a run trains.
struct What<'p> {
    /// The factors of an adapter; of a folder's those of all linear layers, with the rank that most of them have.
    factors: Option<LoraConfig>,
    all: bool,
    /// How the names of new blocks go on after what all names begin with.
    blocks: Vec<String>,
    /// The first layer that is in the graph.
    first: usize,
    /// The purposes of the modules of the plan: a family has some of the matrices that its words name.
    roles: HashMap<&'p str, Role>,
    plan: &'p Plan,
}

impl<'p> What<'p> {
    fn of(config: &FinetuneConfig, plan: &'p Plan, spec: &Spec) -> Result<Self, AdapterError> {
        let factors = match config.load_config(LoadConfig::default()).adapters.pop() {
            None => None,
            Some(AdapterConfig::Lora(lora)) => Some(lora),
            Some(AdapterConfig::Folder { folder, .. }) => {
                Some(AdapterFile::open(&folder)?.config.to_lora())
            }
        };
        let all = config.train_type == Some(TrainType::Full);
        let is_blocks = factors.is_none() && !all;
        let new = plan.new_blocks.iter().filter(|_| is_blocks);
        let layers = spec.names.layers;
        Ok(Self {
            blocks: new
                .clone()
                .map(|block| format!("{layers}.{block}."))
                .collect(),
            first: new.copied().next().unwrap_or(0),
            roles: {
                let slots = plan.steps.iter().map(|step| &step.slot);
                let module = |slot: &'p Slot| Some((slot.name.strip_suffix(".weight")?, slot.role));
                slots.filter_map(module).collect()
            },
            factors,
            all,
            plan,
        })
    }

    /// Whether a weight of the plan is trained itself.
    fn has(&self, step: &Step) -> bool {
        self.all || self.is_new(&step.slot.name)
    }

    fn is_new(&self, name: &str) -> bool {
        self.blocks.iter().any(|block| name.contains(block))
    }

    /// Bytes of the gradients of tables that are trained whole: embedding and head.
    fn of_ends(&self) -> u64 {
        let is_end = |step: &&Step| [Role::Embedding, Role::Head].contains(&step.slot.role);
        let ends = self.plan.steps.iter().filter(is_end);
        ends.filter(|step| self.has(step))
            .map(values_of)
            .sum::<u64>()
            * F32
    }

    /// Bytes of the gradients of a layer; `factors` where factors are trained.
    fn of_layer(&self, nth: usize, factors: u64) -> u64 {
        if self.factors.is_some() {
            return factors;
        }
        let steps = self.plan.steps.iter().filter(|step| self.has(step));
        let here = steps.filter(|step| layer_of(&step.slot.name) == Some(nth));
        here.map(values_of).sum::<u64>() * F32
    }

    /// Values that are trained.
    fn values(&self) -> u64 {
        match (&self.factors, self.plan.adapters.first()) {
            (Some(_), Some(planned)) => planned.values,
            _ => {
                let steps = self.plan.steps.iter();
                steps.filter(|step| self.has(step)).map(values_of).sum()
            }
        }
    }

    fn trains(&self, path: &str) -> Trains {
        let Some(role) = self.roles.get(path).copied() else {
            return Trains::Nothing;
        };
        let Some(lora) = &self.factors else {
            return match self.all || self.is_new(path) {
                true => Trains::Whole,
                false => Trains::Nothing,
            };
        };
        let parts = AdapterParts::of(lora, path, role, role != Role::Norm);
        match (parts.whole, parts.factors) {
            (true, _) => Trains::Whole,
            (false, true) => Trains::Factors {
                rank: rank_of(lora, path, role),
                dora: lora.dora,
                dropout: lora.dropout > 0.0,
            },
            (false, false) => Trains::Nothing,
        }
    }
}
